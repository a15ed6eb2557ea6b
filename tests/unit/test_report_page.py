"""The report's pages, charts and schema, without a browser (tests/browser has one)."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from bringup.errors import BringupError
from bringup.report.charts import Mark, distribution
from bringup.report.cli import report
from bringup.report.figures import against_plan
from bringup.report.page import fleet_page, host_page
from bringup.report.svg import Axis, number, ticks
from bringup.smoke.model import SmokeReport
from tests.unit import records

KIB = 1024


class Text(HTMLParser):
    """What a page says, without its style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.style = False
        self.feed(page)
        self.words = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.style = tag == "style"
        assert tag not in ("script", "img", "iframe", "object", "embed"), tag
        for name, value in attrs:
            assert name not in ("src", "srcset", "action", "onload", "onerror"), name
            assert name != "href" or (value or "").startswith(("#", "data:")), value

    def handle_data(self, data: str) -> None:
        if not self.style:
            self.said.append(data)


@pytest.mark.parametrize(
    "found",
    [records.healthy(), records.failed(), records.inconclusive(), records.unreachable(), records.cpu_only(), records.bare()],
    ids=lambda found: found.host,
)
def test_a_page_is_one_small_file_that_begins_with_the_verdict(found: SmokeReport) -> None:
    page = host_page(found)
    assert len(page.encode()) < 300 * KIB
    words = Text(page).words
    verdict = words.index(f"{found.outcome}: ")
    assert words.index(found.host) < verdict < words.index("Acceptance lines")
    assert found.reason in words
    assert all(cause.title in words and cause.fix in words for cause in found.causes)
    assert "url(" not in page
    assert "@import" not in page


def test_a_long_run_is_drawn_in_few_places_and_says_so() -> None:
    soak = records.composed(soak_requests=600)
    assert soak.timeline is not None
    samples = len(soak.timeline.at_s)
    assert samples > 5000
    page = host_page(soak)
    assert len(page.encode()) < 500 * KIB
    words = Text(page).words
    assert f"{samples:,} samples are drawn in 240 places" in words
    assert "one dot for 2 requests: the slowest of them" in words


def test_a_stall_is_in_the_picture_or_told() -> None:
    words = Text(host_page(records.stalling())).words
    assert "4 of 10,200 gaps took longer than the right edge, up to 1,0" in words
    # of many requests in one place the slowest is drawn
    stalled = records.composed(records.composed().host, records.Server(stall_every=97), soak_requests=600)
    longest = max(gap for stage in stalled.stages for sample in stage.requests for gap in sample.itl_ms)
    assert number(longest) in Text(host_page(stalled)).words


def test_a_distribution_has_every_value_once_and_its_lines() -> None:
    values = [float(value) for value in range(1, 101)]
    drawn = distribution("TTFT", values, [Mark("line P90", 120, "limit"), Mark("floor", 0.5, "floor")], "requests")
    counts = [int(count) for count in re.findall(r"<title>(\d+) requests: ", drawn.svg)]
    assert sum(counts) == len(values)
    assert "line P90 120" in drawn.svg
    assert "floor 0.5" in drawn.svg
    assert "P90: 90 ms" in drawn.svg
    assert drawn.notes == ()


@pytest.mark.parametrize(
    ("values", "line", "says"),
    [
        ([100.0] * 99 + [5000.0], 150, "1 of 100 requests took longer than the right edge, up to 5,000 ms"),
        ([10.0, 11.0, 12.0], 240, "line P50 240 ms lies beyond the right edge"),
        ([100.0, 101.0, 102.0], 110, "the axis begins at 98 ms"),
    ],
)
def test_what_a_distribution_leaves_out_is_told(values: list[float], line: float, says: str) -> None:
    assert says in distribution("TTFT", values, [Mark("line P50", line, "limit")], "requests").notes


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_equal_values_can_be_drawn(value: float) -> None:
    assert "<title>3 gaps: " in distribution("ITL", [value] * 3, [], "gaps").svg


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]), (7, 9.3, [7, 7.5, 8, 8.5, 9]), (3, 3, [3])],
)
def test_ticks_are_round(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7.981, "7.98"),
        (74256, "74,256"),
        (0.0512, "0.0512"),
        (8.0, "8"),
        (999.6, "1,000"),
        (-0.7, "-0.7"),
        (120.0, "120"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_an_axis_keeps_what_is_off_it_at_its_end() -> None:
    axis = Axis(10, 1000, 0, 100, log=True)
    assert [axis.at(value) for value in (1, 10, 100, 5000)] == pytest.approx([0, 0, 50, 100])


def test_the_plan_stands_beside_what_was_found() -> None:
    rows = {row.what: row for row in against_plan(records.healthy())}
    assert rows["Context"].planned == rows["Context"].found == "32,768 tokens"
    assert rows["A token, one stream"].planned == "at least 7.98 ms"
    assert rows["A token, one stream"].difference == "× 1.14"
    assert rows["Output, 4 in flight"].planned == "at most 492 tokens/s"
    assert rows["GPU memory in use"].found == "20.46 GiB"
    assert against_plan(records.bare()) == []


def test_floors_of_another_prompt_are_not_shown() -> None:
    found = records.healthy()
    other = found.model_copy(update={"request": found.request.model_copy(update={"prompt": "something else"})})
    assert "First token" not in {row.what for row in against_plan(other)}
    assert "floor 8 " not in Text(host_page(other)).words


def test_a_fleet_is_sorted_by_what_needs_attention() -> None:
    words = Text(fleet_page(records.fleet(5))).words
    assert (
        words.index("5 hosts: 1 fail, 1 cannot tell yet, 3 pass")
        < words.index("gpu-4")
        < words.index("gpu-5")
        < words.index("gpu-1")
    )
    assert "Most likely cause: The card waits for one busy core." in words
    assert "(× 1.45)" in words  # the slow host's token against the median


def test_a_fleet_under_different_loads_says_so() -> None:
    said = Text(fleet_page([records.composed("a"), records.composed("b", concurrency=4)])).words
    assert "measured under different loads" in said
    assert "measured under different loads" not in Text(fleet_page(records.fleet(3))).words


def schema() -> dict[str, Any]:
    shown = CliRunner().invoke(report, ["schema"])
    assert shown.exit_code == 0
    return dict(json.loads(shown.stdout))


def test_records_follow_the_schema_that_is_printed() -> None:
    document = schema()
    validator = jsonschema.Draft202012Validator
    validator.check_schema(document)
    for found in (records.healthy(), records.unreachable(), records.bare()):
        record = json.loads(found.model_dump_json())
        validator(document).validate(record)
    record["outcome"] = "PERHAPS"
    with pytest.raises(jsonschema.ValidationError, match="PERHAPS"):
        validator(document).validate(record)


def test_html_is_written_for_one_record_and_for_several(tmp_path: Path) -> None:
    files = []
    for found in (records.inconclusive("host-one"), records.inconclusive("host-two")):
        files.append(str(tmp_path / f"{found.host}.json"))
        Path(files[-1]).write_text(found.model_dump_json())
    out = tmp_path / "page.html"
    assert CliRunner().invoke(report, ["html", files[0], "-o", str(out)]).exit_code == 0
    assert "host-two" not in Text(out.read_text()).words
    assert f"bringup report compare {files[0]} OTHER.json" in Text(out.read_text()).words
    assert CliRunner().invoke(report, ["html", *files, "-o", str(out)]).exit_code == 0
    assert "2 hosts: 2 cannot tell yet" in Text(out.read_text()).words
    assert CliRunner().invoke(report, ["html", files[0], "-o", "-"]).stdout.startswith("<!doctype html>")
    failed = CliRunner().invoke(report, ["html", files[0], "-o", str(tmp_path / "none" / "page.html")])
    assert isinstance(failed.exception, BringupError)
    assert "Cannot write the page" in failed.exception.message


def test_a_record_of_the_first_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text('{"schema_version": 1}')
    shown = CliRunner().invoke(report, [str(file)])
    assert isinstance(shown.exception, BringupError)
    assert "schema version 1" in shown.exception.message
    assert f"python -m bringup.smoke {file}" in shown.exception.message


def test_a_plan_of_another_version_does_not_stand_in_the_way() -> None:
    found = records.healthy()
    assert found.plan is not None
    predicted = {"memory": {"total_bytes": 1}, "tokens_per_s_ceiling": None, "kv_cache_tokens": 1000}
    plans: list[dict[str, Any]] = [
        {},
        {"predicted": None, "decisions": None, "findings": "none"},
        {"predicted": predicted, "decisions": [1]},
    ]
    for plan in plans:
        assert "✓ PASS" in Text(host_page(found.model_copy(update={"plan": plan}))).words

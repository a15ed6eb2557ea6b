"""Two runs held against each other: no verdict from noise, none from different loads."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bringup.errors import BringupError
from bringup.report.bootstrap import interval, student
from bringup.report.cli import report
from bringup.report.compare import Comparison, Difference, compare
from bringup.smoke.model import Quality, QualityAnswer, SmokeReport
from bringup.smoke.quality import AT_LEAST, QUESTIONS
from tests.unit import records
from tests.unit.records import Server, composed


def rows(found: Comparison, stage: str = "smoke, 1 in flight") -> dict[str, Difference]:
    return {one.metric: one for one in found.differences if one.stage == stage}


def test_two_runs_of_one_server_show_no_difference() -> None:
    found = compare(composed(seed=1), composed(seed=2))
    assert {one.verdict for one in found.differences} == {"no difference shown"}
    assert not found.slower
    for one in found.differences:
        assert one.lower is not None
        assert one.upper is not None
        assert one.lower < 0 < one.upper


def test_a_slower_token_is_found_and_nothing_else() -> None:
    found = rows(compare(composed(seed=1), composed(seed=2, server=Server(token_ms=9.3))))
    assert found["TPOT P50"].verdict == found["E2E P90"].verdict == "slower"
    assert found["TTFT P50"].verdict == found["TTFT P90"].verdict == "no difference shown"
    assert found["TPOT P50"].change == pytest.approx(0.41, abs=0.05)
    backwards = rows(compare(composed(seed=2, server=Server(token_ms=9.3)), composed(seed=1)))
    assert backwards["TPOT P50"].verdict == "faster"


def test_too_few_requests_give_no_verdict() -> None:
    found = rows(compare(composed(requests=40), composed(requests=20, server=Server(token_ms=30))))
    assert found["TPOT P90"].verdict == "too few requests"
    assert found["TPOT P90"].lower is None
    assert found["TPOT P50"].verdict == "slower"
    none = compare(composed(requests=9), composed(requests=9, server=Server(token_ms=30)))
    assert {one.verdict for one in none.differences} == {"too few requests"}


def test_equal_servers_are_rarely_told_apart() -> None:
    """At 95 %, 5 % of 200 comparisons are 10; 20 or more have a probability of 0.3 % if that is true."""

    def run(rng: random.Random) -> list[float]:
        return [100 * math.exp(rng.gauss(0, 0.1)) for _ in range(30)]

    told_apart = 0
    for seed in range(200):
        rng = random.Random(seed)  # noqa: S311 (no secret)
        low, high = interval(run(rng), run(rng), [50], 0.05, paired=False, seed=seed)[50]
        told_apart += low > 0 or high < 0
    assert told_apart < 20


def with_prompts(found: SmokeReport, indices: Sequence[int], ttft_ms: Sequence[float]) -> SmokeReport:
    """The same run, with these prompts and times to the first token."""
    stage = found.stages[0]
    kept = [sample for sample in stage.requests if not sample.warm_up]
    changed = tuple(
        sample.model_copy(update={"prompt_index": index, "ttft_ms": ms})
        for sample, index, ms in zip(kept, indices, ttft_ms, strict=True)
    )
    return found.model_copy(update={"stages": (stage.model_copy(update={"requests": changed}),)})


def test_the_same_prompts_in_the_same_order_are_compared_in_pairs() -> None:
    rng = random.Random(1)  # noqa: S311 (no secret)
    indices = [index % 8 for index in range(40)]
    lengths = [30 + 40 * index + rng.random() for index in indices]  # prompts differ far more than the runs do
    before = with_prompts(composed(), indices, lengths)
    after = with_prompts(composed(), indices, [ms + 4 + rng.random() for ms in lengths])
    paired = rows(compare(before, after))["TTFT P50"]
    assert (paired.paired, paired.verdict) == (True, "slower")
    turned = with_prompts(composed(), indices[::-1], [ms + 4 for ms in lengths[::-1]])
    alone = rows(compare(before, turned))["TTFT P50"]
    assert (alone.paired, alone.verdict) == (False, "no difference shown")


def test_the_same_seed_gives_the_same_intervals() -> None:
    first, again, other = (compare(composed(seed=1), composed(seed=2), seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.differences != other.differences


def test_different_loads_are_refused_and_only_compared_when_that_is_said() -> None:
    before, after = composed(), composed(concurrency=4)
    with pytest.raises(BringupError) as caught:
        compare(before, after)
    assert "smoke: concurrency 1 and 4" in caught.value.message
    assert "--anyway" in caught.value.message
    found = compare(before, after, anyway=True)
    assert found.loads == ("smoke: concurrency 1 and 4",)
    assert found.differences


def test_runs_without_a_common_stage_are_refused() -> None:
    soaked = composed(soak_requests=5)
    only_soak = soaked.model_copy(update={"stages": soaked.stages[1:]})
    with pytest.raises(BringupError, match="no stage in common: the first has smoke, the second soak"):
        compare(composed(), only_soak)


def test_more_requests_are_no_other_load() -> None:
    assert compare(composed(requests=40), composed(requests=60)).loads == ()


def test_every_rung_is_held_against_its_own() -> None:
    found = compare(records.healthy(seed=1), records.healthy(seed=2))
    stages = list(dict.fromkeys(one.stage for one in found.differences))
    assert stages == ["smoke, 1 in flight", *(f"ladder, {rung} in flight" for rung in (1, 2, 4, 8, 16, 32))]


def test_plans_that_differ_are_listed() -> None:
    before = composed()
    plan = records.gpu_plan(engine_settings={"max-num-seqs": 64})
    found = compare(before, composed(seed=2).model_copy(update={"plan": plan}))
    assert ("max-num-seqs", "256", "64") in found.plans
    assert compare(before, before).plan_note == "The plans decide the same."
    assert "not known" in compare(before, before.model_copy(update={"plan": None})).plan_note


@pytest.mark.parametrize(
    ("probability", "degrees", "value"), [(0.975, 5, 2.571), (0.975, 13, 2.160), (0.995, 8, 3.355), (0.9, 30, 1.310)]
)
def test_students_t(probability: float, degrees: int, value: float) -> None:
    assert student(probability, degrees) == pytest.approx(value, rel=0.01)


def run(tmp_path: Path, before: SmokeReport, after: SmokeReport, *options: str) -> Result:
    files = []
    for name, found in (("before", before), ("after", after)):
        files.append(str(tmp_path / f"{name}.json"))
        Path(files[-1]).write_text(found.model_dump_json())
    return CliRunner().invoke(report, ["compare", *files, *options])


def test_the_command_says_what_was_shown_and_exits_by_it(tmp_path: Path) -> None:
    same = run(tmp_path, composed(seed=1), composed(seed=2))
    assert (same.exit_code, same.stdout.splitlines()[0]) == (0, "NO DIFFERENCE SHOWN")
    slower = run(tmp_path, composed(seed=1), composed("gpu-9", seed=2, server=Server(token_ms=12)))
    assert slower.exit_code == 3
    assert slower.stdout.startswith("SLOWER: TPOT P50 +34.")
    assert ["host", "gpu-1", "gpu-9"] in [line.split() for line in slower.stdout.splitlines()]
    assert max(map(len, slower.stdout.splitlines())) <= 80
    few = run(tmp_path, composed(requests=3), composed(requests=3))
    assert few.stdout.startswith("NOTHING CAN BE SAID")
    refused = run(tmp_path, composed(), composed(concurrency=2))
    assert isinstance(refused.exception, BringupError)
    told = run(tmp_path, composed(), composed(concurrency=2), "--anyway")
    assert "The loads differ" in told.stdout
    as_json = json.loads(run(tmp_path, composed(), composed(), "--json").stdout)
    assert {one["verdict"] for one in as_json["differences"]} == {"no difference shown"}


def with_answers(wrong: Sequence[str]) -> SmokeReport:
    answers = tuple(
        QualityAnswer(key=one.key, question=one.text, expected=one.expected, answer="…", correct=one.key not in wrong)
        for one in QUESTIONS
    )
    quality = Quality(answers=answers, correct=len(answers) - len(wrong), at_least=AT_LEAST, outcome="PASS", rule="nine of twelve")
    return composed(seed=3).model_copy(update={"quality": quality})


def test_answers_that_another_quantisation_loses_are_named_and_held_against_the_margin(tmp_path: Path) -> None:
    keys = [one.key for one in QUESTIONS]
    at_the_margin = compare(with_answers(keys[:1]), with_answers(keys[1:3])).answers
    assert at_the_margin is not None
    assert (at_the_margin.lost, at_the_margin.won, at_the_margin.worse) == (tuple(keys[1:3]), (keys[0],), False)
    files = [tmp_path / name for name in ("before.json", "after.json")]
    for file, wrong in zip(files, ([], keys[:3]), strict=True):
        file.write_text(with_answers(wrong).model_dump_json())
    done = CliRunner().invoke(report, ["compare", *map(str, files)], env={"COLUMNS": "200"})
    assert done.exit_code == 3
    assert f"lost: {', '.join(keys[:3])} (at most 2 may be lost: exceeded)" in " ".join(done.output.split())
    assert compare(composed(seed=3), with_answers([])).answers is None

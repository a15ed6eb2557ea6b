"""What stages there are, on a server of known times and tokens; and how many requests they measure."""

import pytest

from bringup.smoke.ladder import find_knee, rungs
from bringup.smoke.model import AcceptanceLine, Load, MetricName, SmokeReport, SmokeRequest, Stage, Summary
from bringup.smoke.prompt_sets import shipped, synthetic
from bringup.smoke.quality import AT_LEAST, QUESTIONS
from bringup.smoke.run import run_smoke
from bringup.smoke.sizing import claim, requests_for
from tests.unit.fake_openai import FakeOpenAI, serving


def run(base_url: str, **changes: object) -> SmokeReport:
    asked = {"model": "smol", "prompt": "Hello", "max_tokens": 4, "requests": 3, "host": "here"}
    request = SmokeRequest.model_validate({"base_url": base_url, **asked, **changes})
    return run_smoke(request, lambda *_: None, sample=False)


def lines(*metrics: MetricName) -> list[AcceptanceLine]:
    return [AcceptanceLine(metric=metric, at_most=1000) for metric in metrics]


@pytest.mark.parametrize(
    ("metrics", "affordable", "count"),
    [
        (["ttft_p50_ms"], 1000, 18),
        (["ttft_p50_ms", "e2e_p90_ms"], 1000, 103),
        (["e2e_p90_ms", "failed_requests"], 54, 46),
        (["e2e_p90_ms"], 29, 29),
        (["e2e_p90_ms"], 12, 12),
        (["e2e_p90_ms"], 0, 5),
        (["e2e_p99_ms"], 300, 299),
        ([], 1000, 29),
        ([], 7, 7),
    ],
)
def test_so_many_requests_are_measured_as_the_strictest_line_needs_and_the_time_allows(
    metrics: list[MetricName], affordable: int, count: int
) -> None:
    assert requests_for(lines(*metrics), 0.95, affordable) == count


def test_what_so_many_requests_can_claim_is_told() -> None:
    assert claim(29, lines("e2e_p90_ms"), 0.95) == "29 requests without a miss prove P90.2 at 95% confidence"
    assert claim(12, lines("e2e_p90_ms"), 0.95).endswith("prove P77.9 at 95% confidence; P90 would take 29")


def test_the_number_of_requests_follows_from_how_fast_the_server_warmed_up() -> None:
    with serving(FakeOpenAI(ttft_s=0.05)) as url:
        report = run(url, requests=None, budget_s=1.7, lines=[{"metric": "e2e_p90_ms", "at_most": 1000}])
    [stage] = report.stages
    assert stage.load.requests == stage.summary.count
    assert stage.load.requests in range(5, 35)  # 34 of 50 ms fit; on a busy machine fewer
    assert f"{stage.load.requests} requests without a miss prove" in stage.note


def rung(concurrency: int, tokens_per_s: float, failed: int = 0) -> Stage:
    return Stage(
        name="ladder",
        load=Load(kind="closed", concurrency=concurrency, prompts="given", output_tokens=4),
        begin_s=0,
        end_s=1,
        requests=(),
        summary=Summary(count=8, failed=failed, output_tokens_per_s=tokens_per_s),
    )


def test_the_knee_is_where_twice_the_requests_bring_less_than_a_quarter_more() -> None:
    assert rungs(32) == (1, 2, 4, 8, 16, 32)
    assert rungs(12) == (1, 2, 4, 8, 12)
    assert rungs(1) == (1,)
    found = find_knee([rung(1, 100), rung(2, 190), rung(4, 300), rung(8, 330), rung(16, 340)])
    assert found.knee_concurrency == 4
    growing = find_knee([rung(1, 100), rung(2, 190), rung(4, 300)])
    assert (growing.knee_concurrency, growing.note) == (None, "throughput still grew at the highest rung")
    assert find_knee([rung(1, 100), rung(2, 190), rung(4, 0, failed=8)]).note == "requests failed with 4 at once"
    assert find_knee([rung(8, 300), rung(12, 345)]).knee_concurrency is None  # half a doubling, 15 %


def test_a_ladder_leaves_a_stage_for_each_rung() -> None:
    fake = FakeOpenAI(ttft_s=0.02)
    with serving(fake) as url:
        report = run(url, stages=["ladder"], ladder_to=4)
    assert [stage.load.concurrency for stage in report.stages] == [1, 2, 4]
    assert fake.most_in_flight == 4
    assert report.ladder is not None
    assert report.verdicts == ()
    assert report.outcome == "PASS"


def test_long_prompts_reach_the_context_that_the_server_has() -> None:
    fake = FakeOpenAI()
    with serving(fake) as url:
        report = run(url, stages=["long"])
    answer = report.stages[-1].load.output_tokens
    found = [stage.requests[0].prompt_tokens for stage in report.stages]
    assert found == [512 - answer, 1024 - answer, 2048 - answer]
    assert len({body["messages"][0]["content"] for body in fake.bodies}) == 3


def test_stages_that_cannot_run_are_named_with_the_reason() -> None:
    with serving(FakeOpenAI(is_vllm=False, models=(), fault="no_usage")) as url:
        report = run(url, stages=["long", "swap", "quality"], demo_model=True)
    assert [(stage.name, stage.reason) for stage in report.skipped] == [
        ("long", "the server does not say how long its context is; --long-tokens does"),
        ("swap", "no LoRA adapters are planned"),
        ("quality", "the model is a demo: too small to answer sensibly"),
    ]
    assert report.outcome == "INCONCLUSIVE"
    assert "long was skipped: " in report.reason


def test_a_swap_asks_for_each_adapter_twice_in_a_row() -> None:
    fake = FakeOpenAI()
    with serving(fake) as url:
        report = run(url, stages=["swap"], adapters=["law", "mail"])
    models = [body["model"] for body in fake.bodies]
    assert models[:8] == ["smol", "smol", "law", "law", "mail", "mail", "smol", "smol"]
    assert "ms after a change" in report.stages[0].note


def test_the_soak_lasts_as_long_as_asked_and_tells_the_drift() -> None:
    with serving(FakeOpenAI(itl_s=0.002)) as url:
        report = run(url, stages=["soak"], soak_s=1.0)
    [stage] = report.stages
    assert stage.load.requests is None
    assert 1.0 <= stage.end_s - stage.begin_s < 10
    assert stage.note


def test_right_answers_pass_and_wrong_ones_fail_the_run() -> None:
    answers = {question.text: f"Let me see. 3 + 4 … so it is {question.expected}" for question in QUESTIONS}
    with serving(FakeOpenAI(answers=answers)) as url:
        good = run(url, stages=["quality"])
    assert good.quality is not None
    assert [answer.key for answer in good.quality.answers if not answer.correct] == []
    assert good.outcome == "PASS"
    with serving(FakeOpenAI(answers=dict.fromkeys(answers, "I am 42 clouds of water"))) as url:
        wrong = run(url, stages=["smoke", "quality"])
    assert wrong.quality is not None
    assert wrong.quality.correct == 0
    assert wrong.outcome == "FAIL"
    assert f"0 of {len(QUESTIONS)} fixed questions were answered correctly, fewer than {AT_LEAST}" in wrong.reason


def test_the_shipped_prompts_are_there_in_both_languages_and_code() -> None:
    assert len(shipped("advice")) == 1
    mixed = shipped("mixed")
    assert len(mixed) == len(set(mixed)) == 10
    text = "".join(mixed)
    assert "显存" in text
    assert "def moving_average" in text


@pytest.mark.parametrize("tokens", [20, 500, 4000])
@pytest.mark.parametrize("tokens_per_word", [1.0, 1.37])
async def test_synthetic_prompts_have_the_asked_length_as_the_server_counts(tokens: int, tokens_per_word: float) -> None:
    async def count(text: str) -> int:
        return 9 + int(len(text.split()) * tokens_per_word)

    made = await synthetic(tokens, 1, count)
    assert made is not None
    assert tokens - 1 <= made[1] <= tokens
    assert await count(made[0]) == made[1]


async def test_no_synthetic_prompt_where_the_server_does_not_count() -> None:
    async def silent(_: str) -> None:
        return None

    assert await synthetic(100, 1, silent) is None

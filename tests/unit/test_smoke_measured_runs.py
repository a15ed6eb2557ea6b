"""Records of real runs on an H100 (vLLM 0.24.0, Qwen3-4B's shape, 2026-11-25): what they must and must not be blamed on.

Both missed E2E P90 ≤ 1100 ms, which is closer to the floor of 617 ms than any server was seen to come. Token gaps, the load of
single CPUs, plan and facts were taken out; of the second run also the card, since the plan named one that the server was not on.
"""

from pathlib import Path

from bringup.smoke.diagnosis.diagnose import diagnose
from bringup.smoke.model import SmokeReport

MEASURED = Path(__file__).parent / "measured"


def causes(name: str) -> list[tuple[str, str]]:
    report = SmokeReport.model_validate_json((MEASURED / f"h100-vllm-0.24.0-{name}.json").read_text())
    return [(cause.key, cause.confidence) for cause in diagnose(report)]


def test_a_healthy_server_is_blamed_for_nothing_but_the_line() -> None:
    assert causes("four-streams") == [("tight-line", "medium")]


def test_a_server_on_one_cpu_is_named_behind_the_line_since_it_cost_little() -> None:
    assert causes("one-cpu") == [("tight-line", "medium"), ("too-few-cpus", "medium")]

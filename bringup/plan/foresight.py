"""What a server should reach, before anything is installed: predictions, floors, and the acceptance lines held against them."""

from collections.abc import Mapping

from bringup.catalog.entries import Model
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.findings.pcie import gb_s
from bringup.needs import Need
from bringup.plan.configuration import Case
from bringup.plan.engine import EngineOptions
from bringup.plan.limits import LineCheck, check_lines, line_findings, load_s
from bringup.plan.model import Predicted
from bringup.plan.solve import solve

_STREAMS = (1, 4, 16, 64)


def foresee(
    case: Case, lines: Mapping[str, float], options: EngineOptions
) -> tuple[Predicted, tuple[LineCheck, ...], tuple[Finding, ...]]:
    """Predict memory and floors, check the acceptance lines, and say how an impossible one could be met."""
    if options.configuration is None or options.outcome is None:
        raise ValueError("these options are not a card's")
    outcome = options.outcome
    speed, budget = outcome.speed, outcome.budget
    card, model = case.card, case.model
    prompt, answer = case.profile.smoke.prompt_tokens, case.profile.smoke.max_tokens
    planned = {decision.key: decision.value for decision in options.decisions}
    predicted = Predicted(
        kv_cache_tokens=budget.kv_cache_tokens,
        max_model_len=min(outcome.longest_context, model.max_context),
        requests_of_full_length=round(budget.kv_cache_tokens / int(planned["max-model-len"]), 2),
        calibrated=case.calibration.calibrated,
        memory=budget,
        ms_per_token_floor=round(speed.ms_per_token(), 3),
        ttft_floor_ms=round(speed.prefill_ms(prompt), 1),
        e2e_floor_ms=round(speed.answer_ms(prompt, answer), 1),
        tokens_per_s_ceiling={
            streams: round(speed.tokens_per_s(prompt + answer // 2, streams))
            for streams in _STREAMS
            if streams <= options.configuration.max_num_seqs
        },
        load_s_floor=_rounded(load_s(budget.weights_bytes, gb_s(card.gpu, card.model))),
    )
    checks = check_lines(lines, prompt, answer, speed)
    ways = {check.metric: _ways(check, case) for check in checks if check.verdict == "impossible"}
    return predicted, checks, tuple(line_findings(checks, model, card.model, speed, ways))


def foresee_cpu(options: EngineOptions, model: Model) -> Predicted:
    """What is known beforehand of a server on the CPU: its KV cache."""
    planned = {decision.key: decision.value for decision in options.decisions}
    return Predicted(
        kv_cache_tokens=options.kv_cache_tokens,
        max_model_len=min(options.kv_cache_tokens, model.max_context),
        requests_of_full_length=round(options.kv_cache_tokens / int(planned["max-model-len"]), 2),
        calibrated=True,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _ways(check: LineCheck, case: Case) -> str:
    """How an impossible line can be met: other weights, speculative decoding, another line."""
    ways = []
    kinds = {"e2e": "e2e_ms", "itl": "itl_ms", "ttft": "ttft_ms"}
    kind = kinds[check.metric.partition("_")[0]]
    need = Need.model_validate({"kind": kind, "amount": check.at_most_ms})
    # how full the card is has nothing to do with times
    fixed = {name: value for name, value in case.overrides.items() if name != "gpu-memory-utilization"}
    smoke = case.profile.smoke
    try:
        found = solve(case.model_copy(update={"overrides": fixed}), (need,))
        line = {check.metric: check.at_most_ms}
        floor = check_lines(line, smoke.prompt_tokens, smoke.max_tokens, found.outcome.speed)[0].floor_ms
        chosen = found.configuration
        ways.append(f"{chosen.name} ({chosen.checkpoint.repository}) have a floor of {floor:.0f} ms: --need {need}")
    except BringupError:
        ways.append("no weights that this engine serves on this card reach it")
    if kind != "ttft_ms" and check.floor_ms:
        ways.append(f"speculative decoding, if it yields more than {check.floor_ms / check.at_most_ms:.1f} tokens a step")
    ways.append("another line (setting `acceptance`)")
    return "; or ".join(ways)

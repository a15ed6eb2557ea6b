"""Whether a configuration meets a need."""

from bringup.catalog.entries import Model, SmokeSpec
from bringup.needs import Need
from bringup.plan.configuration import Configuration, Outcome


def shortfall(need: Need, configuration: Configuration, outcome: Outcome, model: Model, smoke: SmokeSpec) -> str | None:
    """Say why a configuration does not meet a need; None where it does, as far as can be known without running it.

    Times are held against floors: what is met here is possible, not promised.
    """
    prompt, answer = smoke.prompt_tokens, smoke.max_tokens
    speed = outcome.speed
    if need.kind == "context":
        if need.amount > model.max_context:
            return f"{model.id} takes {model.max_context} tokens at most"
        fits = outcome.longest_context
        return None if fits >= need.amount else f"the KV cache holds {fits:,} tokens"
    if need.kind == "concurrency":
        wanted = need.amount * (need.at_tokens or 0)
        if (need.at_tokens or 0) > model.max_context:
            return f"{model.id} takes {model.max_context} tokens at most"
        if configuration.max_num_seqs < need.amount:
            return f"max-num-seqs is {configuration.max_num_seqs}"
        return None if outcome.budget.kv_cache_tokens >= wanted else f"the KV cache holds {outcome.budget.kv_cache_tokens:,} tokens"
    floor = {
        "ttft_ms": lambda: speed.prefill_ms(prompt),
        "itl_ms": lambda: speed.ms_per_token(prompt),
        "e2e_ms": lambda: speed.answer_ms(prompt, answer),
    }[need.kind]()
    return None if floor <= need.amount else f"the floor is {floor:,.0f} ms"

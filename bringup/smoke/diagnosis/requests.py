"""Causes that lie in the requests: a line below the floor, a full queue, a full KV cache, other clients, the network."""

from bringup.best_seen import BEST_SEEN_RATIO
from bringup.smoke.diagnosis.case import Case, Sent
from bringup.smoke.diagnosis.model import Cause

_AS_GOOD = 0.9
"""Of that speed counts as reached: whole answers on that H100, first token included, came to 0.52 (2026-11-25)."""
_LEAST_QUEUE_MS = 20.0
"""Queue times below are the engine's own pace: a request waits for the step that runs, some 5 to 20 ms."""
_KV_FULL_PERCENT = 95.0
_LEAST_NETWORK_MS = 10.0
"""A client on the same machine saw 1 to 5 ms more than vLLM's own TTFT: HTTP and the client's parsing."""
_LEAST_NETWORK_SHARE = 0.15
_TOLERANCE = 0.05


def impossible_line(case: Case) -> Cause | None:
    """The line is below what the card can do at all."""
    impossible = [m for m in case.missed if m.floor is not None and m.floor > m.at_most]
    if impossible:
        worst = max(impossible, key=lambda m: (m.floor or 0) / max(m.at_most, 1e-9))
        return Cause(
            key="impossible-line",
            title=f"no software can meet {worst.metric} ≤ {worst.at_most:g} ms with these weights on this card",
            evidence=tuple(
                f"{m.metric}: the floor is {m.floor:.0f} ms, the line {m.at_most:g} ms, measured {_ms(m.measured)}"
                for m in impossible
            ),
            confidence="high",
            fix="smaller weights, a faster card or another line: `bringup plan HOST --need "
            f"{worst.family}_ms={worst.at_most:g}` names the ways",
        )
    tight = [
        m
        for m in case.missed
        if m.floor is not None
        and m.measured is not None
        and m.floor > m.at_most * BEST_SEEN_RATIO
        and m.measured * BEST_SEEN_RATIO * _AS_GOOD <= m.floor
    ]
    if not tight:
        return None
    return Cause(
        key="tight-line",
        title="the server is as close to the card's floor as any that was measured; the line is closer",
        evidence=tuple(
            f"{m.metric}: floor {m.floor:.0f} ms, measured {_ms(m.measured)}, line {m.at_most:g} ms; the best that was seen "
            f"anywhere is the floor over {BEST_SEEN_RATIO:g}"
            for m in tight
        ),
        confidence="medium",
        fix="smaller weights or another line: `bringup plan HOST --need …` names the ways",
    )


def kv_exhausted(case: Case) -> Cause | None:
    """The KV cache is full: requests are thrown out and computed again, or wait for room."""
    preempted = case.grown("preemptions_total") or 0
    use = case.under_load(case.timeline.one("kv_use_percent"))
    waiting = case.under_load(case.timeline.one("requests_waiting"))
    most = max(use, default=0.0)
    if not preempted and not (most >= _KV_FULL_PERCENT and any(waiting)):
        return None
    tokens = (case.plan.get("predicted") or {}).get("kv_cache_tokens")
    evidence = [f"KV cache up to {most:.0f} % full" + (f" of {tokens:,} planned tokens" if tokens else "")]
    if preempted:
        evidence.insert(0, f"{preempted:.0f} requests were preempted (their cache was dropped and computed again)")
    if any(waiting):
        evidence.append(f"up to {max(waiting):.0f} requests waited for room")
    return Cause(
        key="kv-exhausted",
        title="the KV cache is too small for this load",
        evidence=tuple(evidence),
        confidence="high" if preempted else "medium",
        fix="shorter contexts, fewer requests at once, or more room: `bringup plan HOST --need concurrency=N@TOKENS` (an 8-bit "
        "cache or weights, a higher gpu-memory-utilization)",
    )


def queueing(case: Case) -> Cause | None:
    """Requests wait before the engine takes them."""
    queued_ms = case.server_mean_ms("queue")
    waiting = case.under_load(case.timeline.one("requests_waiting"))
    if queued_ms is None or queued_ms < _LEAST_QUEUE_MS:
        return None
    running = max(case.under_load(case.timeline.one("requests_running")), default=0.0)
    limit = (case.plan.get("vllm") or {}).get("max-num-seqs")
    evidence = [f"a request waited {queued_ms:.0f} ms on average before the engine took it (the server's own figure)"]
    if waiting:
        evidence.append(f"up to {max(waiting):.0f} requests waited while up to {running:.0f} ran")
    full = isinstance(limit, int) and running >= limit
    if limit:
        evidence.append(f"max-num-seqs is {limit}" + (": all places were taken" if full else ""))
    return Cause(
        key="queueing",
        title="requests queue: more arrive than the server takes at once",
        evidence=tuple(evidence),
        confidence=case.confidence(queued_ms, "ttft", "e2e"),
        fix="raise max-num-seqs (engine_settings)"
        if full
        else "fewer requests at once, or more servers; where long prompts hold up the next ones, a smaller max-num-batched-tokens",
    )


def other_clients(case: Case) -> Cause | None:
    """Somebody else uses the server at the same time."""
    series = case.timeline.one("server_e2e_count")
    known = (
        [(at, value) for at, value in zip(case.timeline.at_s, series.values, strict=True) if value is not None] if series else []
    )
    if len(known) < 2 or not case.sent:
        return None
    (begin, before), (end, after) = known[0], known[-1]
    served = after - before
    # a request may have ended just before or after its count was read
    ours = sum(begin - 1 <= sent.sent_s + (sent.e2e_ms or 0) / 1000 <= end + 1 for sent in case.sent)
    others = served - ours
    if others <= max(1.0, ours * _TOLERANCE):
        return None
    return Cause(
        key="other-clients",
        title="others used the server during the run",
        evidence=(f"the server answered {served:.0f} requests in {end - begin:.0f} s, at most {ours} of them ours",),
        confidence="high" if others >= ours * 0.5 else "medium",
        fix="measure while nobody else uses the server, or raise the line to what it must serve besides",
    )


def network(case: Case) -> Cause | None:
    """Time passes between the server's own figures and the client's."""
    ours = [sent.ttft_ms for sent in _counted(case) if sent.ttft_ms is not None]
    server_ms = case.server_mean_ms("ttft")
    if not ours or server_ms is None:
        return None
    client_ms = sum(ours) / len(ours)
    between_ms = client_ms - server_ms
    if between_ms < max(_LEAST_NETWORK_MS, client_ms * _LEAST_NETWORK_SHARE):
        return None
    here = case.timeline.server_is_local
    return Cause(
        key="network",
        title="the first token loses time between server and client",
        evidence=(
            f"TTFT is {client_ms:.0f} ms at the client and {server_ms:.0f} ms by the server's own figures (means of "
            f"{len(ours)} requests): {between_ms:.0f} ms lie between",
            "the client runs on the server's machine: a proxy, or an API server that has no CPU when it should send"
            if here
            else "the client runs on another machine",
        ),
        confidence="medium" if here else case.confidence(between_ms, "ttft", "e2e"),
        fix="measure on the server itself (`bringup smoke HOST`) to see what it can do; then look at the way to it: round-trip "
        "time (`ping`), proxies that buffer streams, new connections for each request",
    )


def _counted(case: Case) -> list[Sent]:
    """Our requests that lie within the time over which the server's counters are known."""
    series = case.timeline.one("server_ttft_count")
    known = [at for at, value in zip(case.timeline.at_s, series.values, strict=True) if value is not None] if series else []
    if len(known) < 2:
        return []
    return [sent for sent in case.sent if known[0] <= sent.sent_s and sent.sent_s + (sent.e2e_ms or 0) / 1000 <= known[-1] + 0.5]


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.0f} ms"

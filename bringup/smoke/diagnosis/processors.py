"""Causes that lie with the CPUs: too few, taken by others, or one thread that everything waits for."""

from bringup.smoke.diagnosis.case import Case
from bringup.smoke.diagnosis.model import Cause, Confidence
from bringup.smoke.statistics import nearest_rank
from bringup.smoke.timeline import SampledProcess

# limits of ours; what a healthy run on an H100 and on two CPUs showed lies well below them
_WAITING_MS_PER_S, _LONG_WAITING_MS_PER_S = 100.0, 300.0
_OTHERS_CPUS = 0.2
_BUSY_PERCENT = 90.0
_QUOTA_MS_PER_S, _LONG_QUOTA_MS_PER_S = 20.0, 100.0
_STEAL_PERCENT, _MUCH_STEAL_PERCENT = 5.0, 15.0
_SIBLING_PERCENT = 50.0
_WORKING_PERCENT = 50.0
_SATURATED_PERCENT = 85.0
_GPU_STARVED_PERCENT, _GPU_VERY_STARVED_PERCENT = 80.0, 60.0
_FRONT_END_MS, _FRONT_END_SHARE = 20.0, 0.2
_FEW_CPUS = 4
_OVERLOADED = 2.0
"""Times its CPUs that a server asks for. On an H100 one CPU was asked for 1.5 times, and answers took 1.4 % longer (2026-11-25)."""


def quota(case: Case) -> Cause | None:
    """A CPU quota stops the server for part of each period."""
    stopped = case.mean("cgroup_throttled_ms_per_s") or 0.0
    if stopped < _QUOTA_MS_PER_S:
        return None
    granted = case.facts.cpu.quota_cpus if case.facts else None
    return Cause(
        key="cpu-quota",
        title="a CPU quota stops the server again and again",
        evidence=(
            f"the cgroup was stopped for {stopped:.0f} ms of each second (cpu.stat)",
            *((f"it is granted the time of {granted:g} CPUs",) if granted else ()),
        ),
        confidence="high" if stopped >= _LONG_QUOTA_MS_PER_S else "medium",
        fix="raise or remove the quota: CPUQuota= of vllm.service, `docker run --cpus`, or the contract of the rented container",
    )


def steal(case: Case) -> Cause | None:
    """The hypervisor gives the CPUs to other machines."""
    percent = case.mean("cpu_steal_percent") or 0.0
    if percent < _STEAL_PERCENT:
        return None
    return Cause(
        key="cpu-steal",
        title="the hypervisor gives this machine's CPUs to others",
        evidence=(f"{percent:.0f} % of the CPU time was stolen (/proc/stat)",),
        confidence="high" if percent >= _MUCH_STEAL_PERCENT else "medium",
        fix="a machine of its own, or CPUs that are reserved for it",
    )


def too_few_cpus(case: Case) -> Cause | None:
    """The server's own threads fill the CPUs that it may use."""
    server, cpus = case.server_processes, case.server_cpus
    if not cpus or len(cpus) >= _FEW_CPUS:
        return None
    used, waited = case.used_cpus(server), case.waited_ms_per_s(server)
    alone = len(cpus) == 1
    if waited < _WAITING_MS_PER_S or used < len(cpus) * (0.3 if alone else 0.8):
        return None
    machine = len(case.timeline.all("core_busy_percent"))
    may = f"the server may use {_cpus(cpus)}" + (f" of {machine}" if machine > len(cpus) else "")
    return Cause(
        key="too-few-cpus",
        title="the server has one CPU for all of its processes" if alone else f"{len(cpus)} CPUs are too few for the server",
        evidence=(
            f"{may}; it used {used:.2f} CPUs' time, and its threads waited {waited:.0f} ms of each second for a CPU",
            *_who_waited(case, server),
        ),
        confidence="high" if used + waited / 1000 >= len(cpus) * _OVERLOADED else "medium",
        fix="give it a core for each of its processes at least, three with one card (vLLM's documentation): CPUAffinity= of the "
        "unit, the container's cpuset, taskset",
    )


def contended(case: Case) -> Cause | None:
    """Other programs run on the server's CPUs."""
    server, cpus = case.server_processes, case.server_cpus
    waited = case.waited_ms_per_s(server)
    if not cpus or waited < _WAITING_MS_PER_S:
        return None
    busy = sum(case.mean("core_busy_percent", str(cpu)) or 0.0 for cpu in cpus) / 100
    client = tuple(process for process in case.timeline.processes if process.role == "client")
    others = busy - case.used_cpus(server) - case.used_cpus(client)
    if others < _OTHERS_CPUS:
        return None
    return Cause(
        key="cpu-contended",
        title="other programs take CPU time from the server",
        evidence=(
            f"on the server's {_cpus(cpus)}, others used {others:.1f} CPUs' time beside the server's {case.used_cpus(server):.1f}",
            f"its threads waited {waited:.0f} ms of each second for a CPU",
            *_who_waited(case, server),
        ),
        confidence="high" if waited >= _LONG_WAITING_MS_PER_S else "medium",
        fix="see who they are (`top -1`), stop them, or keep them off the server's CPUs (CPUAffinity= of their units; the plan's "
        "`system-cpus` are for them)",
    )


def smt_neighbours(case: Case) -> Cause | None:
    """Others keep the second threads of the server's cores busy."""
    cpus = set(case.server_cpus)
    loud = []
    for cpu in sorted(cpus):
        own = case.mean("core_busy_percent", str(cpu)) or 0.0
        for sibling in case.timeline.siblings.get(cpu, ()):
            its = case.mean("core_busy_percent", str(sibling)) or 0.0
            if sibling not in cpus and its >= _SIBLING_PERCENT and own >= _WORKING_PERCENT:
                loud.append(
                    (its, f"CPU {sibling}, on one core with the server's CPU {cpu} ({own:.0f} % busy), was {its:.0f} % busy")
                )
    if not loud:
        return None
    return Cause(
        key="smt-neighbours",
        title="other programs run on the second threads of the server's cores",
        evidence=tuple(text for _, text in sorted(loud, reverse=True)[:4]),
        confidence="medium",
        fix="keep others off them with CPUAffinity= of their units (the plan leaves these threads idle), or switch SMT off",
    )


def front_end(case: Case) -> Cause | None:
    """The API server needs long before and after the engine: it tokenises long prompts, or has too much to send."""
    ttft, queued, prefill = (case.server_mean_ms(which) for which in ("ttft", "queue", "prefill"))
    if ttft is None or queued is None or prefill is None:
        return None
    front_ms = ttft - queued - prefill
    if front_ms < max(_FRONT_END_MS, ttft * _FRONT_END_SHARE):
        return None
    prompts = [sent.prompt_tokens for sent in case.sent if sent.prompt_tokens]
    front = [process for process in case.server_processes if process.role == "api-server"]
    hot = [(case.mean("hottest_thread_cpu_percent", str(process.pid)) or 0.0, process) for process in front]
    percent, process = max(hot, key=lambda pair: pair[0], default=(0.0, None))
    evidence = [
        f"of {ttft:.0f} ms to the first token, engine and queue took {queued + prefill:.0f} ms, the API server {front_ms:.0f} ms"
    ]
    if prompts:
        evidence.append(f"prompts of {sum(prompts) / len(prompts):.0f} tokens on average")
    if process is not None and percent:
        evidence.append(f"its busiest thread, {process.hottest_thread or process.name}, used {percent:.0f} % of a CPU")
    return Cause(
        key="tokenizer",
        title="the API server takes long to prepare requests: it tokenises them, or its CPU is not free",
        evidence=tuple(evidence),
        confidence=case.confidence(front_ms, "ttft", "e2e") if percent >= _WORKING_PERCENT / 2 else "low",
        fix="more tokenizer threads (`--renderer-num-workers`) or API servers (`--api-server-count`), on cores that are free; "
        "shorter prompts, or common beginnings that are cached",
    )


def gpu_waits(case: Case) -> Cause | None:
    """The card waits for a CPU thread that is busy all the time."""
    use = case.under_load(case.timeline.one("gpu_util_percent"))
    if not use or sum(use) / len(use) >= _GPU_STARVED_PERCENT:
        return None
    hot = [(_hottest(case, process), process) for process in case.server_processes]
    percent, process = max(hot, key=lambda pair: pair[0], default=(0.0, None))
    if process is None or percent < _SATURATED_PERCENT:
        return None
    mean = sum(use) / len(use)
    # vLLM's engine thread spins while it waits for the card, so that a card shared with others looks the same from here
    alone = not any(card.others for card in case.timeline.cards)
    starved = mean < _GPU_VERY_STARVED_PERCENT and percent >= _BUSY_PERCENT
    sure: Confidence = "high" if starved and alone else "medium"
    return Cause(
        key="gpu-waits-for-cpu",
        title=f"the card waits for {process.name}, one thread of which fills a CPU",
        evidence=(
            f"the card worked {mean:.0f} % of the time while requests ran "
            f"({nearest_rank(use, 10):.0f} to {nearest_rank(use, 90):.0f} %)",
            f"thread {process.hottest_thread or process.name} of process {process.pid} used {percent:.0f} % of one CPU",
        ),
        confidence=sure,
        fix="faster or freer cores for it: performance cores at full clock (governor `performance`), nothing else on them; CUDA "
        "graphs and async scheduling on (neither `enforce-eager` nor `no-async-scheduling`)",
    )


def client_saturated(case: Case) -> Cause | None:
    """The load client itself is the bottleneck."""
    client = next((process for process in case.timeline.processes if process.role == "client"), None)
    if client is None or (percent := _hottest(case, client)) < _SATURATED_PERCENT:
        return None
    return Cause(
        key="client-saturated",
        title="the load client itself had no CPU time left, so that its times are not the server's",
        evidence=(f"its busiest thread used {percent:.0f} % of one CPU",),
        confidence="medium",
        fix="fewer requests at once, or measure from another machine",
    )


def _hottest(case: Case, process: SampledProcess) -> float:
    values = case.under_load(case.timeline.one("hottest_thread_cpu_percent", str(process.pid)))
    return nearest_rank(values, 50) or 0.0


def _who_waited(case: Case, server: tuple[SampledProcess, ...]) -> tuple[str, ...]:
    waits = [(case.waited_ms_per_s([process]), process) for process in server]
    switches = sum(case.mean("involuntary_switches_per_s", str(process.pid)) or 0.0 for process in server)
    named = [
        f"{process.name} ({process.pid}) {ms:.0f} ms/s" for ms, process in sorted(waits, key=lambda pair: -pair[0])[:3] if ms >= 1
    ]
    return (f"most of it: {', '.join(named)}; {switches:.0f} times a second a thread was taken off its CPU",) if named else ()


def _cpus(cpus: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, cpus[:8])) + (", …" if len(cpus) > 8 else "")
    return f"CPU {listed}" if len(cpus) == 1 else f"CPUs {listed}"

"""What the systemd unit of the server needs: how long it may take, what it may use, how often it is started again."""

from bringup.catalog.entries import Engine
from bringup.cpu_list import format_cpu_list
from bringup.hardware import Frozen, HostFacts
from bringup.plan.decision import Decision
from bringup.plan.host import HostSetting
from bringup.plan.placement import Placement

START_TIMEOUT_S = 900
"""A first compile takes minutes; vLLM's own limit for its engine is 600 s (VLLM_ENGINE_READY_TIMEOUT_S)."""
STOP_MARGIN_S = 15
"""systemd waits this much longer than vLLM's graceful stop before it kills."""
RESTART_DELAY_S = 10
"""Before a server that died is started again; the driver needs a moment to give back the memory of a killed process."""
RESTART_MAX_DELAY_S = 160
"""Four doublings of the first delay; an outage longer than that is not healed by another try soon."""
RESTART_STEPS = 4
STARTS = 5
"""Starts in a row before systemd gives up: a fault that passes is over after the four delays, one that stays must be seen."""
STEPS_SINCE_SYSTEMD = 254
"""First version with RestartSteps= and RestartMaxDelaySec= (its NEWS)."""
_LIMITS = {"nofile": "LimitNOFILE", "memlock": "LimitMEMLOCK"}
"""Limit of plan/host.py → systemd's name for it."""
_RESERVED = ((4096, 0.25), (4096, 0.20), (8192, 0.10), (114688, 0.06), (None, 0.02))
"""Main memory in MiB, from the first on, and the part of it that stays with the system."""


class ServicePlan(Frozen):
    """What the systemd unit needs."""

    command: tuple[str, ...]
    """Program and its arguments, the configuration file excluded."""
    parser_module: str
    """Module of the engine whose argument parser checks the configuration before the running service is touched."""
    cpus: str
    """Logical CPUs in the kernel's list format; empty leaves the placement to the kernel."""
    memory_nodes: str
    """NUMA nodes that memory is bound to, in the same format; empty binds nothing."""
    memory_max_mib: int | None
    """Main memory that the server and all its processes may use; None sets no limit."""
    limits: dict[str, str]
    """Limits of its processes, by systemd's name: ``LimitNOFILE``."""
    start_timeout_s: int
    """Until it has answered a request."""
    stop_timeout_s: int
    restart_delay_s: int
    restart_steps: int | None
    """Steps in which the delay grows to `restart_max_delay_s`; None: systemd is too old for that, the delay stays the same."""
    restart_max_delay_s: int
    starts: int
    """Starts within `starts_within_s` after which systemd gives up."""
    starts_within_s: int


def plan_service(
    facts: HostFacts,
    engine: Engine,
    engine_dir: str | None,
    placement: Placement,
    host: tuple[HostSetting, ...],
    stop_after_s: int,
    needs_mib: int,
) -> tuple[ServicePlan, Decision]:
    """Plan the unit.

    Args:
        facts: the host.
        engine: the build of vLLM.
        engine_dir: its folder on the host; None where it is in a container, whose PATH leads to it.
        placement: where it runs.
        host: settings of the host, the service's limits among them.
        stop_after_s: vLLM's own limit for a graceful stop.
        needs_mib: main memory that the server is known to need.
    """
    stop_timeout_s = stop_after_s + STOP_MARGIN_S
    memory_max_mib, memory = _memory(facts.memory.total_mib, needs_mib)
    program = engine.command[0].rsplit("/", 1)[-1] if engine_dir is None else f"{engine_dir}/{engine.command[0]}"
    plan = ServicePlan(
        command=(program, *engine.command[1:]),
        parser_module=engine.parser_module,
        cpus=format_cpu_list(placement.serving_cpus),
        memory_nodes=format_cpu_list(placement.memory_nodes or ()),
        memory_max_mib=memory_max_mib,
        limits={_LIMITS[s.key]: s.value.replace("unlimited", "infinity") for s in host if s.kind == "limit" and s.default_on},
        start_timeout_s=START_TIMEOUT_S,
        stop_timeout_s=stop_timeout_s,
        restart_delay_s=RESTART_DELAY_S,
        restart_steps=RESTART_STEPS if facts.init != "systemd" or (facts.systemd_version or 0) >= STEPS_SINCE_SYSTEMD else None,
        restart_max_delay_s=RESTART_MAX_DELAY_S,
        starts=STARTS,
        # starts that each take as long as they may must count together, or systemd would go on for ever
        starts_within_s=STARTS * (START_TIMEOUT_S + stop_timeout_s + RESTART_MAX_DELAY_S),
    )
    return plan, memory


def system_share_mib(total_mib: int) -> int:
    """Main memory that stays with the system, in MiB."""
    left, share = total_mib, 0.0
    for size_mib, part in _RESERVED:
        here = left if size_mib is None else min(left, size_mib)
        share += here * part
        left -= here
    return round(share)


def _memory(total_mib: int, needs_mib: int) -> tuple[int | None, Decision]:
    most_mib = total_mib - system_share_mib(total_mib)
    source = "GKE, node sizes: what it keeps for a node's system"
    if most_mib < needs_mib:
        why = f"the server needs {needs_mib} MiB, and {most_mib} MiB are left beside the system's share: a limit would only kill it"
        return None, Decision(key="memory-max-mib", value="none", why=why, source=source)
    why = f"{total_mib - most_mib} MiB stay with the system: a server that takes more is ended and started again, and not SSH"
    return most_mib, Decision(key="memory-max-mib", value=most_mib, why=why, source=source)

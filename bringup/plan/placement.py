"""Which CPUs and which memory serve, and what stays with the system.

The rules, in the order in which they are applied; each names its evidence:

1. *Allowed CPUs only*: online, allowed to the login and the cgroup (`Cpu.usable`), and not isolated, because the scheduler
   spreads no threads over isolated CPUs (kernel documentation, isolcpus).
2. *The card's NUMA node*, by its number, else by the CPUs that the kernel calls local to it. vLLM binds its workers in the same
   way when asked to (``--numa-bind``); what that gains here was not measured.
3. *Performance cores first*: a hybrid's efficiency cores stay with the system.
4. *The card's share*: cards that are near the same cores divide them evenly, whole L3 domains where there are enough.
5. *One L3 domain* where it has enough cores: the server's processes pass each step's data to one another.
6. *A core for the system* where the rules before left it none near the card and there are four or more.
7. *One thread a core*: the siblings of serving cores are given to nobody, since their work would slow the serving thread.
8. *Never more CPUs than the cgroup's quota*, so that the server alone cannot be stopped for the rest of a period.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from bringup.cpu_list import format_cpu_list
from bringup.findings import Finding
from bringup.findings.finding import note, warning
from bringup.hardware import Cpu, Frozen, Gpu, HostFacts
from bringup.plan.decision import Decision

SmtUse = Literal["leave-idle", "use"]

PROCESSES = 3
"""Of a vLLM server with one card: API server, engine core, one worker. vLLM's documentation (configuration/optimization, "CPU
Resources for GPU Deployments", since 2026-02) asks for a physical core each at least."""
ENOUGH_CORES = 4
"""Those three and one for PyTorch's and the libraries' threads; our judgement. Where we measured, two were enough."""
_V_CACHE_KIB = 64 * 1024
"""What AMD's 3D V-Cache adds to one die's L3 (Ryzen 7000X3D and 9000X3D)."""
_VENDOR_CORES = "vendor: a physical core for each of its 3 processes at least (vLLM's documentation)"
_MEASURED_CORES = (
    "measured: 16 streams of short prompts ran equally fast on 2 to 16 cores and 5 % slower on 1 (vLLM 0.24.0, H100, 2026-11-24); "
    "long prompts, many users and LoRA were not tried"
)
_ADVICE = "folklore: one article, with SMT off, not reproduced"
_ADVICE_KNEE_CORES, _ADVICE_CORES = 12, 16
_ADVICE_BANDWIDTH_GB_S = 96.0
"""Two channels of DDR5-6000: 2 × 8 bytes × 6000 MT/s."""
_ADVICE_MEMORY_GB = 64


class Placement(Frozen):
    """Where the server runs. CPUs are logical CPU numbers."""

    serving_cpus: tuple[int, ...]
    """The server's; never empty."""
    system_cpus: tuple[int, ...]
    """For the system and interrupts; empty where there are too few cores to keep one apart, so that both share all of them."""
    idle_cpus: tuple[int, ...]
    """SMT siblings of serving cores: neither the server's nor the system's."""
    memory_nodes: tuple[int, ...] | None
    """NUMA nodes that the server's memory is bound to; None binds nothing."""
    omp_threads: int | None
    """OMP_NUM_THREADS; None leaves it unset."""
    tokenizer_threads: int
    """Threads of an API server that tokenise (``--renderer-num-workers``)."""
    api_server_count: int
    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]


_Core = tuple[int, ...]
"""A physical core: those of its threads that may be used, the first one first."""


class _Near(NamedTuple):
    """CPUs near a card; `node` is None where they are not one node's, or where the machine has one only."""

    cpus: tuple[int, ...]
    node: int | None
    why: str
    findings: tuple[Finding, ...] = ()


def plan_placement(facts: HostFacts, gpu: Gpu | None, smt: SmtUse = "leave-idle") -> Placement:
    """Place a server that uses one card, or vLLM's CPU backend.

    Args:
        facts: the host.
        gpu: the card that serves; None for the CPU backend.
        smt: what happens to the second threads of serving cores.
    """
    cpu = facts.cpu
    scheduled = tuple(c for c in cpu.usable if c not in cpu.isolated) or cpu.usable
    near = _near(facts, gpu, scheduled)
    here = _cores(cpu, near.cpus)
    limit = max(1, int(cpu.quota_cpus)) if cpu.quota_cpus and cpu.quota_cpus < len(cpu.usable) else None
    whys = [near.why] if near.why else []

    chosen, why = _performance_cores(cpu, here)
    whys += why
    if gpu is not None:
        chosen, why = _share(facts, gpu, near, scheduled, chosen)
        whys += why
        chosen, why = _one_domain(cpu, chosen, limit or ENOUGH_CORES)
        whys += why
    elsewhere = set(scheduled) != set(near.cpus)
    if len(chosen) == len(here) >= ENOUGH_CORES:
        chosen = chosen[1:]
        whys.append("the first core stays with the system and its interrupts")
    elif len(chosen) == len(here) and not elsewhere:
        whys.append(f"{_count(len(here), 'core')} are too few to keep one apart for the system")
    apart = elsewhere or len(chosen) < len(here)

    one_each = smt == "leave-idle" and apart and len(chosen) >= PROCESSES
    turns = 1 if one_each else max(len(core) for core in chosen)
    threads = [core[turn] for turn in range(turns) for core in chosen if turn < len(core)]
    if limit is not None:
        threads = threads[:limit]
        whys.append(f"the cgroup grants the time of {cpu.quota_cpus:g} CPUs, and no more are used at a time")
    serving = tuple(sorted(threads))
    cores = {cpu.core_of.get(c, c) for c in serving}
    idle = tuple(c for c in scheduled if one_each and c not in serving and cpu.core_of.get(c, c) in cores)
    system = tuple(c for c in scheduled if c not in {*serving, *idle}) if apart or limit is not None else ()
    memory_nodes, why_memory = _memory_nodes(facts, gpu, near)
    return Placement(
        serving_cpus=serving,
        system_cpus=system,
        idle_cpus=idle,
        memory_nodes=memory_nodes,
        omp_threads=None,
        tokenizer_threads=1,
        api_server_count=1,
        decisions=(
            Decision(
                key="cpu-affinity",
                value=format_cpu_list(serving),
                why="; ".join([f"{_count(len(cores), 'core')}, {_count(len(serving), 'thread')}", *whys]),
                source=f"derived (plan/placement.py); {_VENDOR_CORES}; {_MEASURED_CORES}" if gpu else "derived (plan/placement.py)",
            ),
            _siblings(cpu, smt, idle, one_each),
            Decision(
                key="system-cpus",
                value=format_cpu_list(system) or "shared",
                why=_why_system(facts, system),
                source="derived (plan/placement.py); effect not measured by us",
            ),
            Decision(
                key="memory-nodes",
                value=format_cpu_list(memory_nodes) if memory_nodes else "not bound",
                why=why_memory,
                source="facts: NUMA nodes; that binding lowers latency was not measured by us, and an author of vLLM's "
                "own binding had found no gain yet (vllm#30492)",
            ),
            *(_threads() if gpu else ()),
        ),
        findings=(
            *near.findings,
            *_isolated(cpu, scheduled),
            *(_core_findings(len(cores)) + _memory_findings(facts) if gpu else ()),
        ),
    )


def without_siblings(facts: HostFacts) -> HostFacts:
    """The host as it is once SMT is off, so that its plan is the same before and after: the first thread of each core stays."""
    first = {core[0] for core in _cores(facts.cpu, facts.cpu.online or facts.cpu.usable)}
    usable = tuple(c for c in facts.cpu.usable if c in first)
    groups = tuple(group.model_copy(update={"cpus": tuple(c for c in group.cpus if c in first)}) for group in facts.cpu.l3_groups)
    cpu = facts.cpu.model_copy(
        update={
            "usable": usable,
            "online": tuple(c for c in facts.cpu.online if c in first),
            "core_of": {c: facts.cpu.core_of[c] for c in usable if c in facts.cpu.core_of},
            "node_of": {c: facts.cpu.node_of[c] for c in usable if c in facts.cpu.node_of},
            "l3_groups": groups,
        }
    )
    return facts.model_copy(update={"cpu": cpu})


def _why_system(facts: HostFacts, system: tuple[int, ...]) -> str:
    if not system:
        return "too few cores to divide: the system shares the server's"
    others = ", the shares of other cards among them until those serve" if len(facts.gpus) > 1 else ""
    return f"what the server does not get{others}; interrupts are best kept here too"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cores(cpu: Cpu, cpus: Sequence[int]) -> list[_Core]:
    """Physical cores behind `cpus`, each as its threads among them, in the order of their first thread."""
    cores: dict[int, list[int]] = {}
    for c in sorted(cpus):
        cores.setdefault(cpu.core_of.get(c, c), []).append(c)
    return [tuple(core) for core in cores.values()]


def _near(facts: HostFacts, gpu: Gpu | None, cpus: tuple[int, ...]) -> _Near:
    """Those of `cpus` that are near the card, or that the CPU backend computes on."""
    node_of = {c: facts.cpu.node_of.get(c) for c in cpus}
    nodes = sorted({node for node in node_of.values() if node is not None})
    if len(facts.numa_nodes) < 2 or not nodes:
        return _Near(cpus, None, "")

    def on(node: int) -> tuple[int, ...]:
        return tuple(c for c in cpus if node_of[c] == node)

    if gpu is None:
        node = min(nodes, key=lambda node: (_memory_mib(facts, node) == 0, node))
        return _Near(on(node), node, f"NUMA node {node}: vLLM's CPU backend computes on the first one that it sees")
    if gpu.numa_node in nodes:
        return _Near(on(gpu.numa_node), gpu.numa_node, f"NUMA node {gpu.numa_node}, where the card is")
    if gpu.numa_node is not None:
        distances = next((node.distances for node in facts.numa_nodes if node.id == gpu.numa_node), ())
        far = dict(zip((node.id for node in facts.numa_nodes), distances, strict=False))
        node = min(nodes, key=lambda node: (far.get(node, 255), node))  # 255: unreachable (ACPI SLIT)
        text = f"the card is on NUMA node {gpu.numa_node}, none of whose CPUs this host may use: the server runs on node {node}"
        return _Near(
            on(node),
            node,
            f"NUMA node {node}, the nearest to the card's",
            (warning("gpu-node-not-ours", text, "each copy to and from the card crosses nodes; not measured by us"),),
        )
    local = tuple(c for c in cpus if c in gpu.local_cpus)
    if local and (len(local) < len(cpus) or len(nodes) == 1):
        its_nodes = {node_of[c] for c in local}
        return _Near(local, its_nodes.pop() if len(its_nodes) == 1 else None, "the CPUs that the kernel calls local to the card")
    text = f"the firmware does not say which of {len(facts.numa_nodes)} NUMA nodes the card is on: the server is bound to none"
    return _Near(cpus, None, "the card's NUMA node is not known", (note("gpu-node-unknown", text),))


def _memory_mib(facts: HostFacts, node: int) -> int:
    return next((known.memory_mib for known in facts.numa_nodes if known.id == node), 0)


def _performance_cores(cpu: Cpu, cores: list[_Core]) -> tuple[list[_Core], list[str]]:
    fast = [core for core in cores if core[0] not in cpu.efficiency]
    slow = len(cores) - len(fast)
    if not slow:
        return cores, []
    if sum(len(core) for core in fast) < PROCESSES:
        return cores, [
            f"efficiency cores too: {_count(len(fast), 'performance core')} cannot hold the server's {PROCESSES} processes"
        ]
    return fast, [f"performance cores only, {_count(slow, 'efficiency core')} stay with the system"]


def _share(facts: HostFacts, gpu: Gpu, near: _Near, cpus: tuple[int, ...], cores: list[_Core]) -> tuple[list[_Core], list[str]]:
    """Divide `cores` among the cards that are near the same CPUs, in the order of their PCI addresses."""
    cards = sorted({g.pci_address for g in facts.gpus if _near(facts, g, cpus).cpus == near.cpus} | {gpu.pci_address})
    if len(cards) == 1:
        return cores, []
    one_kept = len(cores) == len(_cores(facts.cpu, near.cpus))
    left = cores[1:] if one_kept else cores
    number, each = cards.index(gpu.pci_address), len(left) // len(cards)
    if each < PROCESSES:
        return cores, [f"{len(cards)} cards share them: too few to divide"]
    domains = _domains(facts.cpu, left)
    if len(domains) >= len(cards):
        first, end = (at * len(domains) // len(cards) for at in (number, number + 1))
        mine = [core for domain in domains[first:end] for core in domain]
    else:
        mine = left[number * each : (number + 1) * each]
    kept = ["the first core stays with the system and its interrupts"] if one_kept else []
    return mine, [f"the share of one of the {len(cards)} cards near them", *kept]


def _domains(cpu: Cpu, cores: list[_Core]) -> list[list[_Core]]:
    """Group cores by the L3 cache that they share; cores whose cache is not known are one group."""
    group_of = {c: number for number, group in enumerate(cpu.l3_groups) for c in group.cpus}
    domains: dict[int | None, list[_Core]] = {}
    for core in cores:
        domains.setdefault(group_of.get(core[0]), []).append(core)
    return list(domains.values())


def _one_domain(cpu: Cpu, cores: list[_Core], least: int) -> tuple[list[_Core], list[str]]:
    """Choose one L3 domain with at least `least` cores, if there are several domains and such a one."""
    domains = _domains(cpu, cores)
    enough = [domain for domain in domains if len(domain) >= least]
    if len(domains) == 1 or not enough:
        return cores, []
    size_of = {c: group.size_kib or 0 for group in cpu.l3_groups for c in group.cpus}
    sizes = {size_of.get(domain[0][0], 0) for domain in domains}
    # elsewhere a die with less cache is the one of compact, slower cores (Zen 5c)
    stacked = min(sizes) > 0 and max(sizes) - min(sizes) == _V_CACHE_KIB
    first_cpu = min(cpu.online or cpu.usable)

    def order(domain: list[_Core]) -> tuple[int, int, bool, int]:
        size = size_of.get(domain[0][0], 0)
        return size if stacked else -size, -len(domain), any(first_cpu in core for core in domain), domain[0][0]

    best = min(enough, key=order)
    size_mib = size_of.get(best[0][0], 0) // 1024
    why = f"one of {len(domains)} L3 domains ({size_mib} MiB)"
    if stacked:
        why += (
            f", the die without V-Cache: it clocks higher, vLLM's processes are bound by the speed of one thread, and the kernel's "
            f"own default on such processors is the frequency die (amd_3d_vcache); that {max(sizes) // 1024} MiB of cache would "
            "serve worse was not measured by us"
        )
    elif not any(first_cpu in core for core in best):
        why += f", away from CPU {first_cpu}, which most interrupts go to by default"
    return best, [why]


def _memory_nodes(facts: HostFacts, gpu: Gpu | None, near: _Near) -> tuple[tuple[int, ...] | None, str]:
    with_memory = [node.id for node in facts.numa_nodes if node.memory_mib > 0]
    if len(facts.numa_nodes) < 2:
        return None, "this machine has one NUMA node: there is nothing to bind, and NUMA settings do nothing here"
    if gpu is None:
        return None, "vLLM's CPU backend binds its memory itself (v1/worker/cpu_worker.py)"
    if near.node is None:
        return None, "the card's node is not known: memory is taken where the threads run"
    if near.node not in with_memory:
        return None, f"node {near.node} has no memory of its own: the kernel takes the nearest node's"
    if len(with_memory) == 1:
        return None, "one node has all the memory: there is nothing to bind"
    return (near.node,), f"node {near.node}, whose CPUs serve; what it cannot hold is refused, not taken from another node"


def _siblings(cpu: Cpu, smt: SmtUse, idle: tuple[int, ...], one_each: bool) -> Decision:
    if idle:
        why = "a sibling shares its core's units: what ran there, of the server or the system, would slow the serving thread"
    elif one_each or len({cpu.core_of.get(c, c) for c in cpu.usable}) == len(cpu.usable):
        why = "no serving core has a second thread here"
    elif smt == "use":
        why = "as set: both threads of each core serve"
    else:
        why = f"both threads of each core serve: there are too few cores for {PROCESSES} processes and the system"
    return Decision(
        key="smt-siblings",
        value=f"idle: {format_cpu_list(idle)}" if idle else "none idle",
        why=why,
        source="judgement; the advice switches SMT off (folklore), and neither was measured by us",
    )


def _threads() -> tuple[Decision, ...]:
    return (
        Decision(
            key="omp-threads",
            value="unset",
            why="vLLM itself takes as many threads as the affinity and the cgroup's quota allow to load the weights, then one; "
            "with OMP_NUM_THREADS set above 1 they would spin on while it serves",
            source="vLLM 0.33.0 utils/torch_utils.py: startup_omp_num_threads, set_torch_threads_for_runtime",
        ),
        Decision(
            key="tokenizer-threads",
            value=1,
            why="vLLM's default (renderer-num-workers), and what our measurements ran with; more was not measured",
            source="vLLM 0.33.0 config/model.py; 3115 tokens a second at 16 streams (vLLM 0.24.0, H100, 2026-11-24)",
        ),
        Decision(
            key="api-server-count",
            value=1,
            why="vLLM's default with one card, and what our measurements ran with; more would help where tokenising holds the "
            "card up, which was not seen",
            source="vLLM 0.33.0 entrypoints/cli/serve.py; 3115 tokens a second at 16 streams (vLLM 0.24.0, H100, 2026-11-24)",
        ),
    )


def _isolated(cpu: Cpu, scheduled: tuple[int, ...]) -> tuple[Finding, ...]:
    isolated = tuple(c for c in cpu.usable if c in cpu.isolated)
    if not isolated:
        return ()
    if scheduled == cpu.usable:
        text = (
            "every CPU that this host may use is isolated (isolcpus): the scheduler will not spread the server's threads over them"
        )
        return (warning("serving-isolated", text, "all threads of a process can end up on one CPU"),)
    text = f"isolated CPUs {format_cpu_list(isolated)} are left out: the scheduler would not spread the server's threads over them"
    return (note("isolated-unused", text),)


def _core_findings(cores: int) -> tuple[Finding, ...]:
    findings = []
    if cores < PROCESSES:
        text = f"the server gets {_count(cores, 'physical core')}; vLLM's documentation asks for {PROCESSES}, one a process"
        findings.append(warning("cores-below-vendor", text, f"vendor: its processes wait for one another; {_MEASURED_CORES}"))
    if cores < _ADVICE_CORES:
        knee = f"{_ADVICE_KNEE_CORES} the knee and " if cores < _ADVICE_KNEE_CORES else ""
        text = f"the server gets {_count(cores, 'physical core')}; the advice calls {knee}{_ADVICE_CORES} its recommendation"
        findings.append(note("advice-cores", text, f"{_ADVICE}; {_MEASURED_CORES}"))
    return tuple(findings)


def _memory_findings(facts: HostFacts) -> tuple[Finding, ...]:
    findings = []
    modules = facts.memory_modules
    has = modules.bandwidth_gb_s if modules else None
    if has is not None and has < _ADVICE_BANDWIDTH_GB_S:
        text = f"main memory gives {has:g} GB/s; the advice wants DDR5-6000 in two channels ({_ADVICE_BANDWIDTH_GB_S:g} GB/s)"
        cost = f"{_ADVICE}: 26 % of the latency at 128K tokens; decoding reads the card's memory, not this one"
        findings.append(note("advice-memory-bandwidth", text, cost))
    # the kernel keeps some of the installed memory, so without the modules' sizes a decimal GB is the fair measure
    has_gb = modules.total_gib if modules and facts.system.container is None else facts.memory.total_mib * 2**20 / 1e9
    if has_gb < _ADVICE_MEMORY_GB:
        text = f"this host has {has_gb:.0f} GB of memory; the advice wants {_ADVICE_MEMORY_GB} GB"
        findings.append(note("advice-memory-size", text, f"{_ADVICE}; what the plan needs is checked on its own"))
    return tuple(findings)

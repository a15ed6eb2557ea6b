"""Which CPUs and which memory serve; the expected lists are worked out by hand from the recordings' topologies."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bringup.cpu_list import format_cpu_list, parse_cpu_list
from bringup.hardware import Cpu, Gpu, HostFacts, L3Group, Memory, NumaNode
from bringup.plan.placement import Placement, plan_placement
from bringup.probe.host import parse_host
from bringup.recording import recording_named, shipped_recordings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed

CARD = "0000:01:00.0"


def recorded(name: str) -> HostFacts:
    return parse_host(recording_named(name).probe_text(NOW_UNIX_S))


def card(number: int = 0, numa_node: int | None = None, local_cpus: Sequence[int] = ()) -> Gpu:
    address = f"0000:{number + 1:02x}:00.0"
    return Gpu(pci_address=address, pci_id="10de:2685", numa_node=numa_node, kernel_driver="nvidia", local_cpus=tuple(local_cpus))


def machine(
    cores: Sequence[Sequence[int]], nodes: Sequence[str] = (), l3: Sequence[tuple[str, int | None]] = (), **fields: Any
) -> HostFacts:
    """A machine of these physical cores, each given by its threads, with one card.

    Args:
        cores: the threads of each core.
        nodes: CPU list of each NUMA node; one node with all CPUs where none is given.
        l3: CPU list and KiB of each L3 cache.
        fields: other facts of the processors; ``gpus``, ``memory_mib`` (of each node) and ``distances`` are of the host.
    """
    every = tuple(sorted(c for core in cores for c in core))
    cpus_of = [parse_cpu_list(text) for text in nodes] or [every]
    usable = fields.pop("usable", every)
    gpus = fields.pop("gpus", (card(),))
    memory_mib = fields.pop("memory_mib", [65536] * len(cpus_of))
    distances = fields.pop("distances", [()] * len(cpus_of))
    core_of = {c: number for number, core in enumerate(cores) for c in core}
    node_of = {c: number for number, cpus in enumerate(cpus_of) for c in cpus}
    return changed(
        bare_workstation(),
        cpu=Cpu(
            **{
                "model": "made for a test",
                "usable": usable,
                "core_of": {c: core_of[c] for c in usable},
                "node_of": {c: node_of[c] for c in usable},
                "online": every,
                "l3_groups": tuple(L3Group(cpus=parse_cpu_list(text), size_kib=kib) for text, kib in l3),
                **fields,
            }
        ),
        numa_nodes=tuple(
            NumaNode(id=number, cpus=cpus, memory_mib=memory_mib[number], distances=distances[number])
            for number, cpus in enumerate(cpus_of)
        ),
        memory=Memory(total_mib=65536, available_mib=60000),
        memory_modules=None,
        gpus=gpus,
    )


def placed(facts: HostFacts, number: int = 0, **options: Any) -> Placement:
    return plan_placement(facts, facts.gpus[number], **options)


def lists(placement: Placement) -> tuple[str, str, str]:
    return format_cpu_list(placement.serving_cpus), format_cpu_list(placement.system_cpus), format_cpu_list(placement.idle_cpus)


def why(placement: Placement, key: str = "cpu-affinity") -> str:
    return next(decision.why for decision in placement.decisions if decision.key == key)


def ids(placement: Placement) -> set[str]:
    return {finding.id for finding in placement.findings}


# --- the recorded machines

ADVICE = {"advice-cores"}


RECORDED = [
    # eight performance cores with two threads each (0-15), sixteen efficiency cores
    ("4090d-workstation", CARD, "0,2,4,6,8,10,12,14", "16-31", "1,3,5,7,9,11,13,15", None, ADVICE),
    # two dies of eight cores: 0-7,16-23 with 96 MiB, 8-15,24-31 with 32 MiB; memory at 57.6 GB/s
    ("amd-two-ccd-4090d", "0000:0e:00.0", "8-15", "0-7,16-23", "24-31", None, {"advice-cores", "advice-memory-bandwidth"}),
    # 32 cores a socket, thread n + 64 is core n's second; two cards each: core 0 or 32 is kept, 31 // 2 for each card
    ("dual-socket-four-cards", "0000:17:00.0", "1-15", "0,16-64,80-127", "65-79", (0,), ADVICE),
    ("dual-socket-four-cards", "0000:65:00.0", "16-30", "0-15,31-79,95-127", "80-94", (0,), ADVICE),
    ("dual-socket-four-cards", "0000:98:00.0", "33-47", "0-32,48-96,112-127", "97-111", (1,), ADVICE),
    ("dual-socket-four-cards", "0000:ca:00.0", "48-62", "0-47,63-111,127", "112-126", (1,), ADVICE),
    ("h100-datacenter", "0000:00:06.0", "1-15", "0", "", None, ADVICE),
    ("lab-host", None, "0-1", "", "", None, set()),
    # eight dies of eight cores and four cards: the third card's are dies 4 and 5, as much as the quota of 16
    ("rented-container", "0000:81:00.0", "32-47", "0-31,48-95,112-127", "96-111", None, set()),
]


@pytest.mark.parametrize(("name", "pci_address", "serving", "system", "idle", "nodes", "findings"), RECORDED)
def test_recorded_machines(
    name: str, pci_address: str | None, serving: str, system: str, idle: str, nodes: tuple[int, ...] | None, findings: set[str]
) -> None:
    facts = recorded(name)
    placement = plan_placement(facts, next((gpu for gpu in facts.gpus if gpu.pci_address == pci_address), None))
    assert lists(placement) == (serving, system, idle)
    assert placement.memory_nodes == nodes
    assert ids(placement) == findings
    decided = {decision.key: decision.value for decision in placement.decisions}
    assert decided["cpu-affinity"] == serving
    assert decided["system-cpus"] == (system or "shared")


def test_every_shipped_recording_has_its_placement_worked_out() -> None:
    assert {case[0] for case in RECORDED} == set(shipped_recordings())


def test_the_frequency_die_is_chosen_and_what_is_known_of_it_is_said() -> None:
    assert "without V-Cache" in why(placed(recorded("amd-two-ccd-4090d")))
    assert "not measured by us" in why(placed(recorded("amd-two-ccd-4090d")))


def test_two_cards_of_a_two_die_processor_get_a_die_each() -> None:
    facts = recorded("amd-two-ccd-4090d")
    other = facts.gpus[0].model_copy(update={"pci_address": "0000:0f:00.0"})
    facts = changed(facts, gpus=(facts.gpus[0], other))
    assert lists(placed(facts, 0)) == ("1-7", "0,8-16,24-31", "17-23")
    assert lists(placed(facts, 1)) == ("8-15", "0-7,16-23", "24-31")


# --- how many cores there are

ONE_THREAD = [[[c] for c in range(n)] for n in range(9)]
TWO_THREADS = [[[2 * c, 2 * c + 1] for c in range(n)] for n in range(9)]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (ONE_THREAD[1], ("0", "", "")),
        (ONE_THREAD[2], ("0-1", "", "")),
        (ONE_THREAD[3], ("0-2", "", "")),
        (ONE_THREAD[4], ("1-3", "0", "")),
        (TWO_THREADS[1], ("0-1", "", "")),
        (TWO_THREADS[3], ("0-5", "", "")),
        (TWO_THREADS[4], ("2,4,6", "0-1", "3,5,7")),
    ],
)
def test_a_core_is_kept_for_the_system_from_four_on(cores: list[list[int]], expected: tuple[str, str, str]) -> None:
    assert lists(placed(machine(cores))) == expected


@pytest.mark.parametrize(("cores", "below"), [(1, True), (2, True), (3, False), (4, False)])
def test_fewer_cores_than_processes_are_named_with_the_vendor_as_evidence(cores: int, below: bool) -> None:
    placement = placed(machine(ONE_THREAD[cores]))
    assert ("cores-below-vendor" in ids(placement)) is below
    assert all(finding.cost.startswith("vendor:") for finding in placement.findings if finding.id == "cores-below-vendor")


@pytest.mark.parametrize(
    ("cores", "said"), [(12, "the knee and 16"), (13, "calls 16"), (16, "calls 16"), (17, None)]
)  # one core stays with the system
def test_the_advices_cores_are_folklore(cores: int, said: str | None) -> None:
    findings = [finding for finding in placed(machine([[c] for c in range(cores)])).findings if finding.id == "advice-cores"]
    assert [said in finding.text for finding in findings if said] == ([True] if said else [])
    assert all(finding.level == "note" and finding.cost.startswith("folklore:") for finding in findings)


def test_the_advices_memory_is_folklore_and_the_cpu_backend_is_not_judged_by_it() -> None:
    small = changed(machine(ONE_THREAD[4]), memory=Memory(total_mib=32000, available_mib=30000))
    (finding,) = [finding for finding in placed(small).findings if finding.id == "advice-memory-size"]
    assert finding.level == "note"
    assert finding.cost.startswith("folklore:")
    assert "34 GB" in finding.text  # 32000 MiB are 33.6 × 10^9 bytes
    assert plan_placement(small, None).findings == ()


def test_installed_memory_counts_and_in_a_container_its_limit() -> None:
    facts = recorded("4090d-workstation")  # 64 GiB installed
    less = changed(facts, memory=Memory(total_mib=60000, available_mib=50000))  # the processor's own graphics took some
    assert "advice-memory-size" not in ids(placed(less))
    contained = changed(less, system=facts.system.model_copy(update={"container": "docker"}))
    assert "advice-memory-size" in ids(placed(contained))


def test_smt_siblings_serve_where_that_is_wanted() -> None:
    placement = placed(recorded("4090d-workstation"), smt="use")
    assert lists(placement) == ("0-15", "16-31", "")


@pytest.mark.parametrize(
    ("fast", "serving", "system"),
    [
        pytest.param([[0, 1], [2, 3]], "0-3", "4-11", id="two cores with two threads hold three processes"),
        pytest.param([[0, 1], [2], [3]], "0,2-3", "4-11", id="three cores"),
        pytest.param([[0], [1]], "1,4-11", "0", id="two threads do not"),
    ],
)
def test_efficiency_cores_serve_only_where_performance_cores_cannot(fast: list[list[int]], serving: str, system: str) -> None:
    cores = [*fast, *([c] for c in range(4, 12))]
    performance = tuple(c for core in fast for c in core)
    assert lists(placed(machine(cores, performance=performance, efficiency=tuple(range(4, 12)))))[:2] == (serving, system)


# --- CPUs that this host may not use, or not use well


def test_isolated_cpus_are_left_out() -> None:
    placement = placed(machine(ONE_THREAD[8], isolated=(4, 5, 6, 7)))
    assert lists(placement) == ("1-3", "0", "")
    assert "isolated-unused" in ids(placement)


def test_isolated_cpus_serve_where_there_are_no_others() -> None:
    placement = placed(machine(ONE_THREAD[3], isolated=(0, 1, 2)))
    assert lists(placement)[0] == "0-2"
    assert "serving-isolated" in ids(placement)


def test_only_cpus_that_are_online_and_allowed_serve() -> None:
    # core 1's second thread is offline, the cgroup allows 2 to 7
    placement = placed(machine(TWO_THREADS[8], usable=(2, 4, 5, 6, 7, 8, 9), offline=(3,)))
    assert lists(placement) == ("4,6,8", "2", "5,7,9")


@pytest.mark.parametrize(
    ("quota", "serving"),
    [
        pytest.param(0.5, "1", id="a part of one"),
        pytest.param(2.0, "1-2", id="two"),
        pytest.param(2.9, "1-2", id="what is left of a CPU is not used"),
        pytest.param(7.0, "1-7", id="the first core is the system's"),
        pytest.param(16.0, "1-7", id="more than there are"),
    ],
)
def test_no_more_cpus_serve_than_the_quota_grants(quota: float, serving: str) -> None:
    assert lists(placed(machine(ONE_THREAD[8], quota_cpus=quota)))[0] == serving


FOUR_DIES = [("0-3", 16384), ("4-7", 16384), ("8-11", 16384), ("12-15", 16384)]


@pytest.mark.parametrize(("quota", "serving"), [(2.0, "4-5"), (4.0, "4-7"), (6.0, "1-6")])
def test_a_quota_is_filled_from_one_l3_domain_where_it_fits(quota: float, serving: str) -> None:
    assert lists(placed(machine([[c] for c in range(16)], l3=FOUR_DIES, quota_cpus=quota)))[0] == serving


def test_a_quota_below_the_threads_leaves_the_rest_to_the_system() -> None:
    assert lists(placed(machine(TWO_THREADS[3], quota_cpus=4.0))) == ("0-2,4", "3,5", "")


# --- L3 domains


@pytest.mark.parametrize(
    ("l3", "serving", "system"),
    [
        pytest.param([("0-7", 32768)], "1-7", "0", id="one domain"),
        pytest.param([], "1-7", "0", id="not known"),
        pytest.param([("0-3", 16384), ("4-7", 16384)], "4-7", "0-3", id="away from the first CPU"),
        pytest.param([("0-3", 98304), ("4-7", 32768)], "4-7", "0-3", id="the second die has no V-Cache"),
        pytest.param([("0-3", 32768), ("4-7", 98304)], "0-3", "4-7", id="the first die has no V-Cache"),
        pytest.param([("0-3", 16384), ("4-7", 8192)], "0-3", "4-7", id="compact cores have the smaller cache"),
        pytest.param([("0-3", 65536), ("4-7", None)], "0-3", "4-7", id="a size that is not known is no V-Cache"),
        pytest.param([("0-4", 16384), ("5-7", 16384)], "0-4", "5-7", id="three cores are not enough"),
        pytest.param([("0-2", 16384), ("3-5", 16384), ("6-7", 16384)], "1-7", "0", id="none has enough"),
    ],
)
def test_one_l3_domain_serves_where_it_has_enough_cores(l3: list[tuple[str, int | None]], serving: str, system: str) -> None:
    assert lists(placed(machine(ONE_THREAD[8], l3=l3)))[:2] == (serving, system)


def test_of_two_l3_domains_the_one_with_more_cores_serves() -> None:
    facts = machine([[c] for c in range(9)], l3=[("0-4", 16384), ("5-8", 16384)])
    assert lists(placed(facts))[0] == "0-4"


# --- NUMA nodes

TWO_NODES = ("0-3", "4-7")


def test_one_node_has_nothing_to_bind_and_the_plan_says_so() -> None:
    placement = placed(machine(ONE_THREAD[8]))
    assert placement.memory_nodes is None
    assert "NUMA settings do nothing here" in why(placement, "memory-nodes")


@pytest.mark.parametrize(("node", "serving", "system"), [(0, "1-3", "0,4-7"), (1, "5-7", "0-4")])
def test_the_cards_node_serves_and_holds_the_memory(node: int, serving: str, system: str) -> None:
    placement = placed(machine(ONE_THREAD[8], TWO_NODES, gpus=(card(numa_node=node),)))
    assert lists(placement)[:2] == (serving, system)
    assert placement.memory_nodes == (node,)


def test_local_cpus_stand_in_for_a_node_that_the_firmware_does_not_name() -> None:
    placement = placed(machine(ONE_THREAD[8], TWO_NODES, gpus=(card(local_cpus=range(4, 8)),)))
    assert lists(placement)[0] == "5-7"
    assert placement.memory_nodes == (1,)


@pytest.mark.parametrize("local_cpus", [(), range(8)])
def test_nothing_is_bound_where_nobody_knows_the_cards_node(local_cpus: Sequence[int]) -> None:
    placement = placed(machine(ONE_THREAD[8], TWO_NODES, gpus=(card(local_cpus=local_cpus),)))
    assert lists(placement)[0] == "1-7"
    assert placement.memory_nodes is None
    assert "gpu-node-unknown" in ids(placement)


def test_the_nearest_node_serves_where_the_cards_own_cpus_are_not_allowed() -> None:
    facts = machine(
        [[c] for c in range(12)],
        ("0-3", "4-7", "8-11"),
        usable=tuple(range(8)),
        gpus=(card(numa_node=2),),
        distances=[(10, 21, 32), (21, 10, 12), (32, 12, 10)],
    )
    placement = placed(facts)
    assert lists(placement)[0] == "5-7"
    assert placement.memory_nodes == (1,)
    assert "gpu-node-not-ours" in ids(placement)


@pytest.mark.parametrize("memory_mib", [[65536, 0], [0, 65536]])
def test_a_node_without_memory_is_not_bound_to(memory_mib: list[int]) -> None:
    placement = placed(machine(ONE_THREAD[8], TWO_NODES, gpus=(card(numa_node=1),), memory_mib=memory_mib))
    assert lists(placement)[0] == "5-7"
    assert placement.memory_nodes is None


def test_memory_without_cpus_is_not_bound_to() -> None:
    facts = machine(ONE_THREAD[8], ("0-7", ""), gpus=(card(numa_node=0),))
    assert placed(facts).memory_nodes == (0,)


def test_the_system_has_the_other_node_where_the_cards_is_too_small_to_divide() -> None:
    placement = placed(machine(TWO_THREADS[6], ("0-5", "6-11"), gpus=(card(numa_node=0),)))
    assert lists(placement) == ("0,2,4", "6-11", "1,3,5")


@pytest.mark.parametrize(("memory_mib", "serving"), [([1024, 1024], "1-3"), ([0, 1024], "5-7")])
def test_the_cpu_backend_computes_on_the_first_node_with_memory(memory_mib: list[int], serving: str) -> None:
    placement = plan_placement(machine(ONE_THREAD[8], TWO_NODES, gpus=(), memory_mib=memory_mib), None)
    assert lists(placement)[0] == serving
    assert placement.memory_nodes is None  # vLLM binds it itself


# --- several cards


def test_cards_share_the_cores_near_them() -> None:
    facts = machine(ONE_THREAD[8], gpus=(card(0), card(1)))
    assert lists(placed(facts, 0))[:2] == ("1-3", "0,4-7")
    assert lists(placed(facts, 1))[:2] == ("4-6", "0-3,7")


def test_too_few_cores_are_not_divided() -> None:
    facts = machine(ONE_THREAD[6], gpus=(card(0), card(1)))
    assert {lists(placed(facts, number))[0] for number in (0, 1)} == {"1-5"}


def test_a_card_on_another_node_takes_no_share() -> None:
    facts = machine(ONE_THREAD[8], TWO_NODES, gpus=(card(0, numa_node=0), card(1, numa_node=1)))
    assert lists(placed(facts, 0))[0] == "1-3"
    assert lists(placed(facts, 1))[0] == "5-7"


# --- threads


@pytest.mark.parametrize("name", shipped_recordings())
def test_threads_are_vllms_own_choice(name: str) -> None:
    facts = recorded(name)
    placement = plan_placement(facts, facts.gpus[0] if facts.gpus else None)
    assert (placement.omp_threads, placement.tokenizer_threads, placement.api_server_count) == (None, 1, 1)


# --- whatever the machine


@st.composite
def machines(draw: st.DrawFn) -> HostFacts:
    """Up to three nodes, of cores with one or two threads, any of them hybrid, isolated, offline, limited, in L3 domains or not."""
    nodes, per_node, threads = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 2))
    number = nodes * per_node
    cores = [[core + number * thread for thread in range(threads)] for core in range(number)]
    every = [c for core in cores for c in core]
    of_nodes = [[c for core in cores[n * per_node : (n + 1) * per_node] for c in core] for n in range(nodes)]
    in_domain = draw(st.integers(1, per_node))
    domains = [
        cores[n * per_node + start : n * per_node + min(start + in_domain, per_node)]
        for n in range(nodes)
        for start in range(0, per_node, in_domain)
    ]
    usable = draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    cards = draw(st.lists(st.one_of(st.none(), st.integers(0, nodes)), min_size=1, max_size=4))
    return machine(
        cores,
        [format_cpu_list(tuple(cpus)) for cpus in of_nodes],
        [
            (format_cpu_list(tuple(c for core in domain for c in core)), draw(st.sampled_from((16384, 32768, 98304))))
            for domain in domains
        ],
        usable=tuple(sorted(usable)),
        isolated=tuple(draw(st.lists(st.sampled_from(every), max_size=4, unique=True))),
        efficiency=tuple(c for core in cores[draw(st.integers(0, number)) :] for c in core) if draw(st.booleans()) else (),
        quota_cpus=draw(st.one_of(st.none(), st.floats(0.1, 2 * len(every)))),
        memory_mib=draw(st.lists(st.sampled_from((0, 65536)), min_size=nodes, max_size=nodes)),
        gpus=tuple(
            card(n, numa_node=node, local_cpus=draw(st.sampled_from([[], *of_nodes, every]))) for n, node in enumerate(cards)
        ),
    )


@settings(deadline=None)
@given(facts=machines(), on_card=st.booleans(), smt=st.sampled_from(("leave-idle", "use")))
def test_whatever_the_machine(facts: HostFacts, on_card: bool, smt: Any) -> None:
    cpu, gpu = facts.cpu, facts.gpus[-1] if on_card else None
    placement = plan_placement(facts, gpu, smt)
    serving, system, idle = set(placement.serving_cpus), set(placement.system_cpus), set(placement.idle_cpus)
    assert serving
    assert serving | system | idle <= set(cpu.usable)
    assert not serving & system
    assert not serving & idle
    assert not system & idle
    if cpu.quota_cpus is not None:
        assert len(serving) <= max(1, cpu.quota_cpus)
    if set(cpu.usable) - set(cpu.isolated):
        assert not serving & set(cpu.isolated)
    if gpu is not None and gpu.numa_node is not None:
        assert len({cpu.node_of[c] for c in serving}) == 1
        if {c for c in cpu.usable if cpu.node_of[c] == gpu.numa_node} - set(cpu.isolated):
            assert {cpu.node_of[c] for c in serving} == {gpu.numa_node}
    if placement.memory_nodes is not None:
        assert {cpu.node_of[c] for c in serving} == set(placement.memory_nodes)
        assert sum(node.memory_mib > 0 for node in facts.numa_nodes) > 1
    # nothing is forgotten: what serves nobody is isolated, or shared because there are too few cores
    assert serving | system | idle >= set(cpu.usable) - set(cpu.isolated)
    if smt == "use":
        assert not idle
    assert plan_placement(facts, gpu, smt) == placement


@settings(deadline=None)
@given(facts=machines())
def test_no_two_cards_are_given_the_same_core_unless_they_share_all(facts: HostFacts) -> None:
    # a card whose node is not known may be near cores that others divide among them
    nodes = len(facts.numa_nodes)
    gpus = tuple(gpu.model_copy(update={"numa_node": (gpu.numa_node or 0) % nodes}) for gpu in facts.gpus)
    facts = changed(facts, gpus=gpus, cpu=facts.cpu.model_copy(update={"quota_cpus": None}))
    placements = [placed(facts, number) for number in range(len(facts.gpus))]
    for first in placements:
        for second in placements:
            cores = [{facts.cpu.core_of[c] for c in placement.serving_cpus} for placement in (first, second)]
            divided = "the share of one of" in why(first) and "the share of one of" in why(second)
            assert first == second or not divided or not cores[0] & cores[1]

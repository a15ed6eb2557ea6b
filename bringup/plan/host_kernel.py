"""The kernel's settings: sysctls, transparent huge pages, limits of the service's processes."""

from collections.abc import Iterator

from bringup.hardware import HostFacts
from bringup.plan.host_setting import NO_EFFECT_SHOWN, Candidate, HostSetting, Unneeded, as_found, machine_writable
from bringup.plan.placement import Placement


def kernel_settings(facts: HostFacts, placement: Placement) -> Iterator[Candidate]:
    """List them."""
    yield _swappiness(facts)
    yield _numa_balancing(facts, placement)
    yield _somaxconn(facts)
    yield from _service_limits(facts)
    yield _transparent_hugepages(facts)


def _swappiness(facts: HostFacts) -> Candidate:
    key = "vm.swappiness"
    if key not in facts.sysctls:
        return Unneeded(key=key, why="this kernel has no such setting")
    if not facts.memory.swap_mib:
        return Unneeded(key=key, why="this host has no swap")
    return _sysctl(
        facts,
        key,
        "10",
        "the kernel gives up cached files before it swaps out memory of the server: a swapped-out page of its tokenizer or "
        "scheduler delays a token",
        f"kernel documentation, admin-guide/sysctl/vm.rst; that it is 10 is custom; {NO_EFFECT_SHOWN}",
    )


def _numa_balancing(facts: HostFacts, placement: Placement) -> Candidate:
    key = "kernel.numa_balancing"
    balancing = as_found(facts, key, facts.sysctls.get(key))
    nodes_with_cpus = [node for node in facts.numa_nodes if node.cpus]
    if len(nodes_with_cpus) < 2:
        return Unneeded(key=key, why="this machine has one NUMA node with CPUs: there is nothing to balance")
    if balancing is None:
        return Unneeded(key=key, why="this kernel has no such setting")
    setting = _sysctl(
        facts,
        key,
        "0",
        "the server's CPUs are all on one node, so that moving pages automatically only costs faults",
        'kernel documentation, admin-guide/sysctl/kernel.rst: "should be disabled" for a workload that is bound to nodes; the '
        f"advice's 63 % less deviation is folklore; {NO_EFFECT_SHOWN}",
        # 2 is memory tiering, which somebody chose
        default_on=balancing in ("0", "1"),
    )
    if len({facts.cpu.node_of.get(cpu) for cpu in placement.serving_cpus}) != 1:
        why = "the server's CPUs are on several nodes, and the kernel may well move its pages to where they are used"
        return Unneeded(key=key, why=why, setting=setting.model_copy(update={"why": f"as set in the inventory, although {why}"}))
    return setting


def _somaxconn(facts: HostFacts) -> Candidate:
    key = "net.core.somaxconn"
    setting = _sysctl(
        facts,
        key,
        "4096",
        "the server asks for a queue of 2048 connections that wait to be accepted, and the kernel cuts that down to this; "
        "4096 is the kernel's own default since 5.4",
        "uvicorn config.py: backlog=2048, which vLLM 0.33.0 leaves as it is (entrypoints/launchers/launcher.py); listen(2)",
        # offered: nobody has shown that a queue was full here
        default_on=False,
    )
    backlog = as_found(facts, key, facts.sysctls.get(key))
    if backlog is None or (backlog.isdecimal() and int(backlog) < 2048):
        return setting
    return Unneeded(key=key, why="the queue is long enough", setting=setting)


def _sysctl(facts: HostFacts, key: str, value: str, why: str, source: str, *, default_on: bool = True) -> HostSetting:
    writable = None if key not in facts.sysctls else key not in facts.read_only_sysctls and facts.root_access != "none"
    return HostSetting(
        key=key,
        kind="sysctl",
        value=value,
        now=facts.sysctls.get(key),
        why=why,
        evidence="documentation",
        source=source,
        read_back=f"sysctl -n {key}",
        writable=writable,
        default_on=default_on,
        paths=(f"/proc/sys/{key.replace('.', '/')}",),
    )


def _service_limits(facts: HostFacts) -> Iterator[HostSetting]:
    """Limits of the service's processes; they are ours to set where systemd starts it."""
    systemd = facts.init == "systemd"
    writable = facts.root_access != "none" if systemd else None
    process = "$(systemctl show --property=MainPID --value vllm.service)" if systemd else "$(pgrep -o -f 'vllm serve')"
    yield HostSetting(
        key="nofile",
        kind="limit",
        value="65536",
        now=None,
        why="a connection is a file; vLLM raises its own limit to 65535 at its start, which fails where the hard limit is less",
        evidence="documentation",
        source="vLLM 0.33.0 utils/system_utils.py: set_ulimit",
        read_back=f"prlimit --nofile --noheadings --output=HARD --pid {process}",
        writable=writable,
        default_on=True,
    )
    yield HostSetting(
        key="memlock",
        kind="limit",
        value="unlimited",
        now=None,
        why="vLLM locks no memory itself, and the driver pins memory without regard to this limit; InfiniBand between several "
        "hosts would need it, which is not served here",
        evidence="none",
        source="no mlock in vLLM 0.33.0; the driver's part is hearsay",
        read_back=f"prlimit --memlock --noheadings --output=HARD --pid {process}",
        writable=writable,
        default_on=False,
    )


def _transparent_hugepages(facts: HostFacts) -> Candidate:
    key = "transparent_hugepage"
    now = facts.system.transparent_hugepages
    if now is None:
        return Unneeded(key=key, why="this kernel has none")
    found = as_found(facts, key, now)
    if found == "madvise":
        why = "stays as it is: programs that want huge pages ask for them, no others wait while the kernel makes some"
    elif found == "always":
        why = "with always, any program may wait while the kernel makes a huge page, and takes more memory; "
        why += "madvise leaves that to those that ask"
    else:
        why = "with never, programs that ask for huge pages get none; whether the server's would gain is not known"
    return HostSetting(
        key=key,
        kind="sysfs",
        value="madvise",
        now=now,
        why=why,
        evidence="documentation" if found != "never" else "none",
        source=f"kernel documentation, admin-guide/mm/transhuge.rst; {NO_EFFECT_SHOWN}",
        read_back=r"sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled",
        writable=machine_writable(facts),
        default_on=False,
        paths=("/sys/kernel/mm/transparent_hugepage/enabled",),
    )

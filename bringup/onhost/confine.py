"""What a process that becomes the server gives up and takes on, as systemd would do for the unit; as far as the kernel allows.

In a container much of it is its owner's to allow: what is refused is said, and the server runs without.
"""

import ctypes
import grp
import os
import pwd
import resource
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from bringup.cpu_list import parse_cpu_list
from bringup.onhost.launch import OOM_SCORE_ADJUST, Launch

_LIMITS = {"LimitNOFILE": resource.RLIMIT_NOFILE, "LimitMEMLOCK": resource.RLIMIT_MEMLOCK}
_SET_MEMPOLICY = 238
"""x86_64's number of set_mempolicy(2), for which the C library has no function."""
_MPOL_BIND = 2
_MASK_BITS = 1024
"""Nodes that a kernel is built for at most (CONFIG_NODES_SHIFT)."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
"""prctl(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when the one that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Make this process the parent of all processes below it whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def confine(launch: Launch, user: str) -> list[str]:
    """Take on the unit's settings and become its user; returns what was refused, by the unit's names."""
    refused = []
    for what, step in _steps(launch):
        try:
            step()
        except (OSError, ValueError):  # ValueError is setrlimit's
            refused.append(what)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    entry = pwd.getpwnam(user)
    os.setgroups([group.gr_gid for group in grp.getgrall() if group.gr_name in launch.groups])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.chdir("/")
    return refused


def _steps(launch: Launch) -> Iterator[tuple[str, Callable[[], object]]]:
    if launch.cpus:
        yield f"CPUAffinity={launch.cpus}", partial(os.sched_setaffinity, 0, parse_cpu_list(launch.cpus))
    if launch.memory_nodes:
        yield f"NUMAMask={launch.memory_nodes}", partial(bind_memory, parse_cpu_list(launch.memory_nodes))
    for name, value in launch.limits.items():
        yield f"{name}={value}", partial(_limit, _LIMITS[name], value)
    yield f"OOMScoreAdjust={OOM_SCORE_ADJUST}", partial(Path("/proc/self/oom_score_adj").write_text, str(OOM_SCORE_ADJUST))


def bind_memory(nodes: Iterable[int]) -> None:
    """Bind memory that this process and those below it take from now on.

    Raises:
        OSError: the kernel or a container's filter refuses.
    """
    mask = sum(1 << node for node in nodes)
    words = (ctypes.c_ulong * (_MASK_BITS // 64))(*(mask >> shift & (2**64 - 1) for shift in range(0, _MASK_BITS, 64)))
    # the kernel counts one bit less than it is told (set_mempolicy(2), BUGS)
    _checked(_libc.syscall(_SET_MEMPOLICY, _MPOL_BIND, words, ctypes.c_ulong(_MASK_BITS + 1)))


def _limit(kind: int, value: str) -> None:
    """Set a limit, or the highest that may be.

    Raises:
        OSError, ValueError: it is not as asked for.
    """
    number = resource.RLIM_INFINITY if value == "infinity" else int(value)
    try:
        resource.setrlimit(kind, (number, number))
    except (OSError, ValueError):
        _, most = resource.getrlimit(kind)
        resource.setrlimit(kind, (most, most))
        raise


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, value, 0, 0, 0))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

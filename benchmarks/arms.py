"""Settings that an A/B run switches on and off on a live host: affinity of a server's threads, sysctls, sysfs values.

Each is a context manager that puts back what was there before, whatever happens inside.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from bringup.cpu_list import parse_cpu_list
from bringup.errors import BringupError

_CPU = Path("/sys/devices/system/cpu")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Arm(Protocol):
    """B of an A/B pair; A is the host as it is."""

    @property
    def name(self) -> str:
        """What people call it."""

    def applied(self) -> AbstractContextManager[object]:
        """Make it so, and put back what was there."""


@dataclass(frozen=True)
class Nothing:
    """A/A: what differs between its runs is noise."""

    name: str = "nothing (A/A)"

    def applied(self) -> AbstractContextManager[object]:
        """Change nothing."""
        return nullcontext()


@dataclass(frozen=True)
class Affinity:
    """All threads of a server on some CPUs."""

    name: str
    main_pid: int
    cpus: frozenset[int]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Pin each thread; threads that are born meanwhile inherit it."""
        before = {tid: os.sched_getaffinity(tid) for tid in _threads(self.main_pid)}
        try:
            for tid in before:
                _pin(tid, self.cpus)
            yield
        finally:
            for tid in _threads(self.main_pid):
                # a thread that was born inside gets its process's
                _pin(tid, before.get(tid) or before[self.main_pid])


def _threads(main_pid: int) -> list[int]:
    try:
        main = psutil.Process(main_pid)
        processes = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess as error:
        raise BringupError(f"there is no process {main_pid} any more: the server has ended") from error
    found = []
    for process in processes:
        try:
            found += [thread.id for thread in process.threads()]
        except psutil.NoSuchProcess:
            continue
    return found


def _pin(tid: int, cpus: frozenset[int] | set[int]) -> None:
    try:
        os.sched_setaffinity(tid, cpus)
    except ProcessLookupError:
        return
    except OSError as error:
        raise BringupError(f"thread {tid} cannot be moved to CPUs {sorted(cpus)}: {error.strerror}") from error


@dataclass(frozen=True)
class Written:
    """A value in one or more files of /proc/sys or /sys."""

    name: str
    files: tuple[Path, ...]
    value: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Write it, and write back what each file said."""
        with ExitStack() as undo:
            for file in self.files:
                undo.callback(_write, file, _selected(file))
                _write(file, self.value)
            yield


def _selected(file: Path) -> str:
    """The value of a file; of `always [madvise] never` the one in brackets."""
    text = file.read_text().strip()
    return text[text.index("[") + 1 : text.index("]")] if "[" in text else text


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise BringupError(f"{file} cannot be set to {value}: {error.strerror}") from error


def arms(texts: Sequence[str], main_pid: int | None) -> list[Arm]:
    """Read settings as a user names them: ``cpus=0-7``, ``thp=madvise``, ``governor=performance``, ``smt=off``, or a sysctl's name.

    Raises:
        BringupError: one of them is none, or this host does not have it.
    """
    return [Nothing(), *(_arm(text, main_pid) for text in texts)]


def _arm(text: str, main_pid: int | None) -> Arm:
    key, _, value = text.partition("=")
    if not value:
        raise BringupError(f"{text}: say NAME=VALUE, such as cpus=0-7, thp=madvise, governor=performance, vm.swappiness=10")
    if key == "cpus":
        if main_pid is None:
            raise BringupError("cpus= needs the server's process: --pid or --unit")
        try:
            return Affinity(text, main_pid, frozenset(parse_cpu_list(value)))
        except ValueError as error:
            raise BringupError(f"{text}: {error}") from error
    if key == "thp":
        files = (_THP,)
    elif key == "governor":
        files = tuple(sorted(_CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")))
    elif key == "smt":
        files = (_CPU / "smt/control",)
    else:
        files = (Path("/proc/sys") / key.replace(".", "/"),)
    if not files or not all(file.exists() for file in files):
        raise BringupError(f"this host has no {key}: nothing to compare")
    return Written(text, files, value)

"""Keeps one server where a supervisor runs it: what systemd does for vllm.service, for a process and all of its descendants.

The supervisor starts this program again when it ends. It waits before each start, longer each time, and gives up after several;
starts the server as its user and with its limits; has a request answered before it counts as up; ends it gently, and whatever it
leaves by force; and ends when it does. Processes of a server whose keeper was killed are ended before the next start.
"""

import os
import pwd
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost.confine import adopt_orphans, confine, end_with_parent
from bringup.onhost.content import environment_in
from bringup.onhost.files import stat_fields
from bringup.onhost.launch import Launch, read_launch
from bringup.onhost.say import say
from bringup.onhost.supervised import USER, Starts, Told, boot, keeping, processes_of, tell, told
from bringup.onhost.supervisor import mark_start
from bringup.onhost.watch import tell_gave_up

LAUNCH = Path("/opt/bringup/current/vllm.toml")
TEMPORARY = Path("/var/lib/bringup/tmp")
"""The server's own, emptied at each start."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
TOOL = "/opt/bringup/bin/bringup-host"
EXIT_ENDED, EXIT_STOPPED, EXIT_GAVE_UP = 1, 0, 78
"""The supervisor starts it again after any but the last, and after the second unless it did the stopping (supervisord.conf)."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_KILL_LIMIT_S = 30.0
"""For the kernel to end killed processes; one that waits for a driver may take long."""


class _StopError(Exception):
    """Somebody asked for a stop."""


class Keeper:
    """One start of the server, to its end."""

    def __init__(self, launch: Launch) -> None:
        """Take how it is run."""
        self.launch = launch
        self.server: int | None = None
        self.check: int | None = None
        """Waits for the first answer."""
        self.ended: dict[int, int] = {}
        """Children that have ended, and how: wait status."""

    def run(self) -> int:
        """Wait for its turn, serve, and return the exit code."""
        starts = Starts()
        result = "stopped"
        try:
            recent = [start_s for start_s in starts.seconds() if start_s > time.monotonic() - self.launch.starts_within_s]
            if len(recent) >= self.launch.starts:
                return self._give_up()
            self._tell("activating", told().result)
            self._pause(self.launch.delay_s(len(recent)))
            starts.add()
            self._start()
            result = self._serve()
        except OSError as error:  # a full disk, an environment file that is gone
            result = str(error)
        except _StopError:
            starts.forget()
            self._tell("deactivating")
            self._stop_server()
        self._end_rest()
        if result == "stopped":
            tell(Told("inactive", result, boot=boot()))
            say("stopped")
            return EXIT_STOPPED
        tell(Told("activating", result, boot=boot()))
        say(f"the server has ended ({result}); it will be started again")
        return EXIT_ENDED

    def _give_up(self) -> int:
        Starts().forget()  # whoever starts it next is somebody
        tell(Told("failed", told().result, boot=boot()))
        tell_gave_up()
        return EXIT_GAVE_UP

    def _start(self) -> None:
        """Start the server, and what waits for its first answer."""
        entry = pwd.getpwnam(USER)
        shutil.rmtree(TEMPORARY, ignore_errors=True)
        TEMPORARY.mkdir(mode=0o700)
        os.chown(TEMPORARY, entry.pw_uid, entry.pw_gid)
        environment = {"USER": USER, "LOGNAME": USER, "TMPDIR": str(TEMPORARY), "LANG": "C.UTF-8"}
        for file in self.launch.environment_files:
            environment |= environment_in(Path(file).read_text())
        mark_start()
        self.server = self._spawn(self.launch.command, environment)
        self._tell("activating")
        self.check = self._spawn((TOOL, "ready", self.launch.plan), environment | {"MAINPID": str(self.server)}, quiet=True)

    def _spawn(self, command: tuple[str, ...], environment: Mapping[str, str], quiet: bool = False) -> int:
        """Start a program in a session of its own, with the unit's settings and as its user; returns its process id."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            refused = confine(self.launch, USER)
            if refused and not quiet:
                say(f"refused here, so that the server runs without: {', '.join(refused)} (bringup plan says who can give it)")
            end_with_parent(signal.SIGKILL)  # once it is the other user, which takes this away
            os.execve(command[0], command, environment)  # noqa: S606
        except BaseException as error:  # noqa: BLE001 - this process must never go on as its parent
            say(f"{command[0]} cannot be started: {error}")
        finally:
            os._exit(127)

    def _serve(self) -> str:
        """Wait until the server ends; returns why, in a few words."""
        limit_s = time.monotonic() + self.launch.start_timeout_s
        up = False
        while True:
            self._wait(None if up else max(0.0, limit_s - time.monotonic()))
            if self.server in self.ended:
                return _in_words(self.ended[self.server])
            if self.check in self.ended and not up:
                if self.ended[self.check]:
                    return "it did not answer its first request"
                up = True
                self._tell("active")
            if not up and time.monotonic() > limit_s:
                return "timeout"

    def _stop_server(self) -> None:
        """Ask the server to stop, so that running answers may end, and wait as long as it may take."""
        if self.server is None or self.server in self.ended:
            return
        with suppress(ProcessLookupError):
            os.kill(self.server, signal.SIGTERM)
        limit_s = time.monotonic() + self.launch.stop_timeout_s
        while self.server not in self.ended and (left_s := limit_s - time.monotonic()) > 0:
            with suppress(_StopError):
                self._wait(left_s)

    def _end_rest(self) -> None:
        """Kill every process below this one until there is none, and take away what the server left in shared memory."""
        limit_s = time.monotonic() + _KILL_LIMIT_S
        while time.monotonic() < limit_s and (left := _children()):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(_StopError):
                self._wait(0.2)
        clear_shared_memory()

    def _pause(self, seconds: float) -> None:
        limit_s = time.monotonic() + seconds
        while (left_s := limit_s - time.monotonic()) > 0:
            self._wait(left_s)

    def _wait(self, limit_s: float | None) -> None:
        """Wait for a child's end; a request to stop raises `_StopError`."""
        got = signal.sigwaitinfo(_SIGNALS) if limit_s is None else signal.sigtimedwait(_SIGNALS, limit_s)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self.ended[ended[0]] = ended[1]
        if got is not None and got.si_signo != signal.SIGCHLD:
            raise _StopError

    def _tell(self, state: str, result: str = "") -> None:
        tell(Told(state, result, self.server, self.server, boot()))


def keep() -> int:
    """Keep the current release's server; returns the exit code that tells the supervisor what to do."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    end_with_parent(signal.SIGTERM)
    adopt_orphans()
    while True:
        with keeping() as alone:
            if alone:
                return _keep_alone()
        # the one before has lost its supervisor and ends
        got = signal.sigtimedwait(_SIGNALS, 0.5)
        if got is not None and got.si_signo != signal.SIGCHLD:
            return EXIT_STOPPED


def _keep_alone() -> int:
    before = told()
    tell(Told("activating", before.result, session=before.session, boot=boot()))
    end_leftovers(before.session)
    if not LAUNCH.exists():
        tell(Told("inactive", "nothing was deployed", boot=boot()))
        say("no release is current: there is nothing to serve")
        return EXIT_GAVE_UP
    try:
        launch = read_launch(LAUNCH)
    except BringupError as error:
        tell(Told("failed", error.message, boot=boot()))
        tell_gave_up()
        return EXIT_GAVE_UP
    return Keeper(launch).run()


def end_leftovers(session: int | None) -> None:
    """Kill what a server left whose keeper was killed."""
    limit_s = time.monotonic() + _KILL_LIMIT_S
    while time.monotonic() < limit_s and (left := processes_of(session)):
        say(f"ending what an earlier server left: processes {', '.join(map(str, left))}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    clear_shared_memory()


def clear_shared_memory() -> None:
    """Remove the user's files in shared memory, which killed processes leave; systemd's RemoveIPC=."""
    with suppress(KeyError):
        user = pwd.getpwnam(USER).pw_uid
        for file in SHARED_MEMORY.iterdir():
            with suppress(OSError):
                if file.lstat().st_uid == user:
                    file.unlink()


def _children() -> list[int]:
    """Processes whose parent is this one: `adopt_orphans` makes it the next of those that lose theirs."""
    own = str(os.getpid())
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if stat_fields(folder)[1:2] == [own]]


def _in_words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

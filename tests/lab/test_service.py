"""The service under blows, with the real vLLM: processes that die or hang, stops at the wrong moment, disks that are full, and a
release that comes up and is not good enough.

Uses the host that tests/lab/test_deploy.py leaves, whatever it serves, or deploys to it first.
"""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from deployment import Deployment
from served import START_LIMIT_S, STOP_LIMIT_S, Service

from bringup.lab import container

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def service(deployment: Deployment) -> Iterator[Service]:
    """The served host, whose service waits for a second only before it starts again."""
    if deployment.ssh("systemctl is-active vllm.service", check=False).strip() != "active":
        deployment.deploy()
    folder = "/run/systemd/system/vllm.service.d"
    deployment.ssh(f"mkdir -p {folder}; printf '[Service]\\nRestartSec=1\\n' > {folder}/test.conf; systemctl daemon-reload")
    yield Service(deployment, deployment.served_models()[0])
    deployment.ssh(f"rm -rf {folder}; systemctl daemon-reload")


def test_sandbox_is_closed_and_the_server_serves_in_it(service: Service) -> None:
    said = service.ssh("systemd-analyze security vllm.service --no-pager | tail -1")
    score = re.search(r"exposure level for vllm.service: ([\d.]+)", said)
    assert score is not None
    assert float(score[1]) <= 2.5
    assert service.answer() == "length"
    status = service.ssh("cat /proc/$(systemctl show vllm.service -P MainPID)/status")
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert service.ssh("prlimit --core --noheadings --output=HARD --pid $(systemctl show vllm.service -P MainPID)") == "0"


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker"])
def test_process_that_is_killed_takes_the_others_along_and_all_come_back(service: Service, title: str) -> None:
    before = service.processes()
    (victim,) = service.processes(title)
    service.ssh(f"systemctl reset-failed vllm.service; kill -9 {victim}")
    service.all_end(before)
    service.wait_until_active()
    assert service.answer() == "length"
    # what the killed one left in shared memory has gone: as much is there as before, not twice as much
    assert len(service.ssh("ls /dev/shm | grep -c psm_ || true")) == 1


def test_server_that_hangs_is_ended_by_the_watch_and_comes_back(service: Service) -> None:
    service.hang_and_come_back()
    assert "runs and does not answer: ending it" in service.ssh("journalctl -u vllm-watch -o cat --no-pager")


def test_answer_that_is_running_ends_before_a_stop_and_a_start_can_be_stopped(service: Service) -> None:
    service.stop_while_answering(200)
    service.ssh("systemctl start --no-block vllm.service")
    service.wait(lambda: bool(service.processes("VLLM::EngineCore")), START_LIMIT_S, "the engine starts")
    assert service.state() == "activating", "it is up once it has answered, not before"
    service.ssh("systemctl stop vllm.service")
    assert service.processes() == set()
    assert service.ssh("ls /dev/shm | grep -c psm_ || true") == "0"
    assert service.ssh("systemctl is-active vllm-watch.service", check=False) == "inactive", "nothing starts what somebody stopped"
    service.ssh("systemctl start --no-block vllm.service")
    service.wait_until_active()


_CLOCK = """import pathlib, time
def ahead(offset=pathlib.Path("/srv/clock/offset_s"), real=time.time):
    return real() + float(offset.read_text())
time.time, time.time_ns = ahead, lambda: int(ahead() * 1e9)
"""


@contextmanager
def clock_of_its_own(service: Service) -> Iterator[Callable[[int], None]]:
    """Give all Python of the server a clock of its own; yields what sets it, to an offset in seconds.

    The host has this machine's clock, which must stay as it is. (libfaketime breaks Python's `time.sleep`.) The clock of a kernel
    of its own jumps in tests/vm/test_service.py.
    """
    dropin = "/run/systemd/system/vllm.service.d/clock.conf"
    anew = "systemctl daemon-reload; systemctl reset-failed vllm.service; systemctl restart --no-block vllm.service"
    service.ssh(f"mkdir -p /srv/clock; cd /srv/clock; echo 0 > offset_s; cat > sitecustomize.py <<'end'\n{_CLOCK}end")
    service.ssh(f"printf '[Service]\\nEnvironment=PYTHONPATH=/srv/clock\\n' > {dropin}; {anew}")
    try:
        service.wait_until_active()
        # a reader in between must not find an empty file
        yield lambda offset_s: service.ssh(f"cd /srv/clock; echo {offset_s} > new; mv new offset_s")
    finally:
        service.ssh(f"rm {dropin}; {anew}")
        service.wait_until_active()


def ahead_s(service: Service) -> float:
    """By how much the server's clock is ahead of this machine's."""
    with service.open(1) as answer:
        return float(json.load(answer)["created"]) - time.time()


@pytest.mark.parametrize("offset_s", [90 * 86400, -90 * 86400], ids=["forward", "back"])
def test_clock_that_jumps_cuts_no_answer_and_ends_no_server(service: Service, offset_s: int) -> None:
    with service.impatient_watch(), clock_of_its_own(service) as set_clock:
        pid, began = service.server_pid(), service.ssh("date +%s")
        with service.open(200, stream=True) as answer:
            assert answer.readline().startswith(b"data:")
            set_clock(offset_s)
            assert answer.read().rstrip().endswith(b"data: [DONE]")
        service.wait(lambda: abs(ahead_s(service) - offset_s) < 86400, 30, "the server's clock has jumped")
        set_clock(0)
        service.wait(lambda: abs(ahead_s(service)) < 86400, 30, "the server's clock has jumped back")
        assert service.server_pid() == pid
        assert service.ssh("systemctl show vllm.service vllm-watch.service -P NRestarts").split() == ["0", "0"]
        assert "does not answer" not in service.ssh(f"journalctl -u vllm-watch -o cat --no-pager --since @{began}")


@pytest.mark.parametrize(
    ("prepare", "undo", "reason"),
    [
        (
            "mount -t tmpfs -o size=4m,mode=750,uid=vllm tmpfs /var/lib/bringup/cache",
            "umount /var/lib/bringup/cache",
            "/var/lib/bringup/cache: No space left on device",
        ),
        (
            "mount -t tmpfs -o ro,mode=750,uid=vllm tmpfs /var/lib/bringup/home",
            "umount /var/lib/bringup/home",
            "/var/lib/bringup/home: Read-only file system",
        ),
    ],
    ids=["full", "unwritable"],
)
def test_folder_that_cannot_be_written_stops_a_switch_and_not_the_service(
    service: Service, prepare: str, undo: str, reason: str
) -> None:
    pid = service.deployment.main_pid()
    digest = service.ssh("basename $(readlink /opt/bringup/current)")
    service.ssh(prepare)
    said = service.ssh(f"/opt/bringup/bin/bringup-host switch {digest}", check=False)
    service.ssh(undo)
    assert f"error: user vllm cannot write {reason}; nothing was changed on the running service" in said
    assert service.deployment.main_pid() == pid
    assert service.answer() == "length"


@dataclass
class Client:
    """Asks all the time, and remembers from when to when an answer failed (seconds since 1970)."""

    service: Service
    failed: list[tuple[float, float]] = field(default_factory=list)
    answered: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.wait(0.1):
            began = time.time()
            try:
                self.service.answer(1)
                self.answered += 1
            except (urllib.error.URLError, OSError):
                self.failed.append((began, time.time()))


def test_release_that_fails_its_benchmark_is_taken_back_and_costs_the_switch_alone(service: Service) -> None:
    released = service.ssh("readlink /opt/bringup/current")
    seqs = service.ssh("grep ^max-num-seqs /opt/bringup/current/vllm.yaml")
    began = time.time()
    client = Client(service)
    bad = {"engine_settings": {"max-num-seqs": 3}, "acceptance": {"ttft_p50_ms": 0.5}}
    with ThreadPoolExecutor() as both:
        asking, deploying = both.submit(client.run), both.submit(lambda: service.deployment.deploy(check=False, **bad))
        try:
            service.wait(lambda: "switching" in service.ssh("cat /run/bringup.lock"), START_LIMIT_S, "the switch is at work")
            second = service.deployment.deploy(check=False)
            run = deploying.result()
        finally:
            client.over.set()
        asking.result()
    # another run meanwhile is told whose work it would disturb, and since when
    assert second.returncode == 1
    whose = r"another run is at work on this host: switching to release \w+, since \S+ UTC \(.+ s\), for \S+@\S+ \(pid \d+\)"
    assert re.search(whose, second.stderr)
    assert run.returncode == 1
    assert re.search(r"release \w+ came up, but it failed its benchmark, see the report", run.stderr)
    assert re.search(r"which was served before, is served again; the other one differs in: .*max-num-seqs 4 → 3", run.stderr)
    assert "TTFT P50" in run.stderr
    assert service.ssh("readlink /opt/bringup/current") == released
    assert service.ssh("grep ^max-num-seqs /opt/bringup/current/vllm.yaml") == seqs
    assert service.answer() == "length"
    # failed requests lie between a stop and the next start alone
    log = service.ssh(f"journalctl -u vllm.service -o short-unix --no-pager --since @{int(began)}")
    marks = re.findall(r"^([\d.]+) \S+ systemd\[1\]: (Stopping|Started) vllm\.service", log, re.MULTILINE)
    assert [word for _, word in marks] == ["Stopping", "Started"] * 2
    # the journal's mark may come a moment after the signal itself
    windows = [(float(start) - 1, float(end)) for (start, word), (end, _) in pairwise(marks) if word == "Stopping"]
    outside = [failed for failed in client.failed if not any(start <= failed[1] and failed[0] <= end for start, end in windows)]
    assert client.answered > 0
    assert (outside, len(client.failed) > 0) == ([], True)


@pytest.mark.parametrize("cut", ["control machine", "power"])
def test_run_that_is_cut_in_the_middle_of_a_switch_can_be_repeated(service: Service, cut: str) -> None:
    wanted = {"engine_settings": {"max-num-seqs": 2 if cut == "power" else 3}}
    before = service.ssh("readlink /opt/bringup/current")
    run = service.deployment.start(**wanted)
    service.wait(lambda: service.ssh("readlink /opt/bringup/current") != before, START_LIMIT_S, "another release is being started")
    if cut == "power":
        service.deployment.cut_power()
        run.wait(STOP_LIMIT_S)
        service.deployment.boot()
        service.wait_until_active()
        assert service.answer() == "length"
    else:
        run.kill()
        run.wait(STOP_LIMIT_S)
        # the host's own part goes on to its end, and keeps others out until then
        service.wait(lambda: service.ssh("cat /run/bringup.lock") == "", START_LIMIT_S, "the switch has ended")
        assert service.answer() == "length"
    service.deployment.deploy(**wanted)
    assert service.answer() == "length"
    assert service.deployment.diff(**wanted).returncode == 0
    assert service.deployment.verify(**wanted).returncode == 0


def test_host_that_boots_serves_again(service: Service) -> None:
    service.deployment.deploy()
    service.ssh("systemctl poweroff", check=False)
    service.wait(lambda: not container.is_up(service.deployment.host()), STOP_LIMIT_S, "the host is off")
    service.deployment.boot()
    service.wait_until_active()
    assert service.answer() == "length"
    assert service.deployment.diff().returncode == 0
    assert service.deployment.verify().returncode == 0


def test_service_that_cannot_start_gives_up_and_says_so(service: Service) -> None:
    folder = "/run/systemd/system/vllm.service.d"
    service.ssh(
        f"mkdir -p {folder}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestartSec=0.1\\n' > {folder}/zz.conf; "
        "systemctl daemon-reload; systemctl reset-failed vllm.service; systemctl restart --no-block vllm.service"
    )
    service.wait(lambda: service.state() == "failed", STOP_LIMIT_S + START_LIMIT_S, "systemd has given up")
    service.wait(lambda: service.ssh("ls /run/motd.d") != "", STOP_LIMIT_S, "those who log in are told")
    assert "vllm.service has given up" in service.ssh("cat /run/motd.d/50-bringup")
    # the limit, and not the first failure, has ended it
    assert service.ssh("systemctl show vllm.service -P NRestarts") == "5"
    assert "vllm.service has given up" in service.ssh("journalctl -p alert -o cat --no-pager")
    service.ssh(f"rm {folder}/zz.conf; systemctl daemon-reload")
    assert service.deployment.diff().returncode == 2, "what is not served is drift"

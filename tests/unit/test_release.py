"""Switching a host's release, with systemd and the server replaced: the files, the order, and every way back.

The same switch with the real ones is in tests/lab/test_deploy.py.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.onhost import lock, release, systemd
from bringup.onhost.content import content_checksum, served_files
from bringup.onhost.server import Server
from bringup.smoke.run import EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_PASSED


class Host:
    """A host's files below a folder, and a systemd that starts a server of the unit's release, unless it is to fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing: set[str] = set()
        self.pid = 100
        self.state = "inactive"
        self.calls: list[str] = []
        self.stopped_as: str | None = None
        self.log = ["(Worker pid=1) ERROR [x.py:1] ValueError: no such weights"]

    def add(self, digest: str, text: str = "port: 1", in_container: bool = False) -> Path:
        folder = self.root / "releases" / digest
        folder.mkdir(parents=True)
        for name in served_files(in_container):
            (folder / name).write_text(f"# comment\n{digest} {text}\n")
        plan = {
            "model": "m",
            "vllm": {"host": "127.0.0.1", "port": 8000},
            "service": {"start_timeout_s": 5, "parser_module": "none"},
            "predicted": {"kv_cache_tokens": 84752},
            "decisions": [{"key": "model-id", "value": "m"}, {"key": "text", "value": f"{digest} {text}"}],
        }
        if in_container:
            plan["container"] = {"image": "i"}
        (folder / "plan.json").write_text(json.dumps(plan))
        return folder

    def unit(self) -> list[str]:
        """The words of the unit that systemd knows, or makes of a container's file, which it prefers to none."""
        path = self.root / "vllm.service"
        return (path if path.exists() else self.root / "containers/vllm.container").read_text().split()

    def systemctl(self, *words: str) -> str:
        self.calls.append(words[0])
        if words[0] == "restart":
            self.pid += 1
            self.state = "failed" if self.unit()[2] in self.failing else "active"
        if words[0] == "stop" or (words[0] == "disable" and "--now" in words):
            self.stopped_as = self.unit()[2]
            self.state = "inactive"
        if words[0] in ("enable", "disable") and not (self.root / "vllm.service").exists():
            raise BringupError("Failed to enable unit: Unit /run/systemd/generator/vllm.service is transient or generated")
        if words[0] == "is-active":
            return self.state
        if "--property=MainPID" in words:
            return str(self.pid) if self.state == "active" else "0"
        return "0"

    def served(self) -> str | None:
        """Digest that the unit starts, as long as it runs."""
        return self.unit()[2] if self.state == "active" else None


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    for name, path in {
        "RELEASES": "releases",
        "CURRENT": "current",
        "SMOKE_RECORD": "latest.json",
        "TLS": "tls",
    }.items():
        monkeypatch.setattr(release, name, tmp_path / path)
    monkeypatch.setattr(lock, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(release, "service_manager", systemd.Systemd)
    monkeypatch.setattr(systemd, "UNIT", tmp_path / "vllm.service")
    monkeypatch.setattr(systemd, "CONTAINER_UNIT", tmp_path / "containers/vllm.container")
    monkeypatch.setattr(systemd, "systemctl", host.systemctl)
    monkeypatch.setattr(Server, "is_healthy", lambda self: host.state == "active")
    monkeypatch.setattr(systemd.Systemd, "log", lambda self, since, lines=25: "\n".join(host.log[-lines:]))
    monkeypatch.setattr(release, "LOG_DELAY_S", 0)
    for check in ("check_configuration", "check_folders", "check_port", "record_image"):
        monkeypatch.setattr(release, check, lambda *arguments: None)
    return host


def switch(digest: str) -> None:
    release.Switch(digest).run()


def test_release_that_comes_up_is_marked_and_due_for_its_smoke_run(host: Host) -> None:
    folder = host.add("new")
    (host.root / "latest.json").write_text("{}")
    switch("new")
    assert host.served() == "new"
    assert release.Switch.current() == "new"
    texts = [(folder / name).read_text() for name in served_files(False)]
    assert (folder / ".served").read_text().strip() == content_checksum(texts)
    assert not (host.root / "latest.json").exists()


def test_mark_ignores_comments_and_nothing_else(host: Host) -> None:
    assert content_checksum(["# a\nx: 1", "y"]) == content_checksum(["x: 1\n# b", "y"])
    assert len({content_checksum(texts) for texts in (["x: 1", "y"], ["x: 2", "y"], ["x: 1y"], ["y", "x: 1"])}) == 4


def test_release_that_fails_gives_way_to_the_one_before(host: Host) -> None:
    host.add("old")
    host.add("new")
    switch("old")
    host.failing.add("new")
    with pytest.raises(BringupError, match=r"(?s)new does not come up.*ValueError: no such weights.*release old.* is served again"):
        switch("new")
    assert host.served() == "old"
    assert release.Switch.current() == "old"
    assert not (host.root / "releases/new/.served").exists()


def damage_plan(host: Host) -> None:
    (host.root / "releases/old/plan.json").write_text("{")


def break_old(host: Host) -> None:
    host.failing.add("old")


@pytest.mark.parametrize("damage", [damage_plan, break_old])
def test_cause_is_told_when_the_way_back_is_broken_too(host: Host, damage: Callable[[Host], None]) -> None:
    host.add("old")
    host.add("new")
    switch("old")
    host.failing.add("new")
    damage(host)
    with pytest.raises(BringupError, match=r"(?s)new does not come up.*no such weights.*release old does not come up again"):
        switch("new")


def test_repair_in_place_that_fails_does_not_pretend_to_go_back(host: Host) -> None:
    host.add("same")
    switch("same")
    host.failing.add("same")
    with pytest.raises(BringupError, match="there is none to put back"):
        switch("same")
    assert not (host.root / "releases/same/.served").exists(), "the next run must see that a start is due"


def test_release_that_came_up_is_gone_back_to_although_it_does_not_run_now(host: Host) -> None:
    host.add("old")
    host.add("new")
    switch("old")
    host.state = "activating"  # a run was cut while it put this one back
    host.failing.add("new")
    with pytest.raises(BringupError, match="release old, which was served before, is served again"):
        switch("new")


def test_old_releases_go_and_their_certificates_with_them(host: Host) -> None:
    for number in range(8):
        folder = host.add(f"release{number}")
        plan = json.loads((folder / "plan.json").read_text())
        plan["vllm"]["ssl-certfile"] = str(release.TLS / f"certificate{number}/cert.pem")
        (folder / "plan.json").write_text(json.dumps(plan))
        os.utime(folder, (number, number))
        (release.TLS / f"certificate{number}").mkdir(parents=True)
        switch(f"release{number}")
    left = {path.name.removeprefix("release") for path in release.RELEASES.iterdir()}
    assert {path.name.removeprefix("certificate") for path in release.TLS.iterdir()} == left
    assert {"6", "7"} <= left
    assert len(left) == release.KEPT_RELEASES


def test_first_release_that_fails_is_stopped(host: Host) -> None:
    host.add("first")
    host.failing.add("first")
    with pytest.raises(BringupError, match="nothing was served before, so the service was stopped"):
        switch("first")
    assert host.state == "inactive"
    assert release.Switch.current() is None


def test_second_run_is_refused_while_the_first_is_at_work(host: Host) -> None:
    host.add("new")
    with lock.lock("building vllm", "ann@laptop (pid 7)"), pytest.raises(BringupError) as refused:
        switch("new")
    said = r"building vllm, since \d\d:\d\d:\d\d UTC \(\d+ s\), for ann@laptop \(pid 7\), process \d+ there"
    assert re.search(said, str(refused.value))
    assert host.calls == []


def test_lock_of_a_run_that_was_killed_holds_nobody_up(host: Host) -> None:
    host.add("new")
    code = (
        "import sys, time; from pathlib import Path; from bringup.onhost import lock\n"
        "lock.LOCK = Path(sys.argv[1])\n"
        "with lock.lock('building vllm'): print('held', flush=True); time.sleep(60)\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(lock.LOCK)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BringupError, match=f"building vllm.* process {other.pid} there"):
            switch("new")
        other.send_signal(signal.SIGKILL)
    switch("new")
    assert host.served() == "new"


@pytest.mark.parametrize("from_container", [False, True])
def test_another_runtime_is_stopped_as_its_own_unit_says_before_that_goes(host: Host, from_container: bool) -> None:
    host.add("old", in_container=from_container)
    host.add("new", in_container=not from_container)
    host.add("broken", in_container=from_container)
    switch("old")
    switch("new")
    assert (host.served(), host.stopped_as) == ("new", "old")
    assert systemd.UNIT.exists() != systemd.CONTAINER_UNIT.exists(), "systemd prefers its own file to one that it would make"
    host.failing.add("broken")
    with pytest.raises(BringupError, match="release new, which was served before, is served again"):
        switch("broken")
    assert (host.served(), release.Switch.current()) == ("new", "new")
    assert systemd.UNIT.exists() == from_container


def test_first_container_that_fails_is_stopped_and_does_not_start_at_boot(host: Host) -> None:
    host.add("first", in_container=True)
    host.failing.add("first")
    with pytest.raises(BringupError, match="nothing was served before, so the service was stopped"):
        switch("first")
    assert host.state == "inactive"
    assert not systemd.CONTAINER_UNIT.exists()


# --- the benchmark as part of the switch


@pytest.fixture
def benchmark(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Stands for the benchmark: leaves a record and ends with the given code."""

    def ends_with(code: int) -> Path:
        script = host.root / "benchmark"
        script.write_text(
            f"#!/bin/sh\necho '10 of 10'; echo '{{\"code\": {code}}}' > {host.root}/record; "
            f"ln -sf record {host.root}/latest.json; exit {code}\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(release, "SMOKE_PYTHON", str(script))
        return host.root / "smoke.json"

    return ends_with


def test_exit_codes_are_those_of_the_benchmark() -> None:
    assert (EXIT_PASSED, EXIT_INCONCLUSIVE) == release.SMOKE_ACCEPTED
    assert release.SMOKE_FAILED == EXIT_FAILED


def prove(digest: str, request: Path) -> None:
    release.Switch(digest).run(request)


def test_release_that_passes_its_benchmark_stays(
    host: Host, benchmark: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = host.add("new")
    prove("new", benchmark(0))
    assert host.served() == "new"
    assert (folder / ".served").exists()
    assert json.loads((folder / "smoke-record.json").read_text()) == {"code": 0}
    assert "10 of 10" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "what"), [(3, "it failed its benchmark"), (1, "its benchmark could not be run")])
def test_release_that_fails_its_benchmark_gives_way_to_the_one_before(
    host: Host, benchmark: Callable[[int], Path], code: int, what: str
) -> None:
    host.add("old", "a")
    folder = host.add("new", "b")
    prove("old", benchmark(0))
    with pytest.raises(BringupError) as failed:
        prove("new", benchmark(code))
    assert f"release new came up, but {what}" in failed.value.message
    assert "release old, which was served before, is served again; the other one differs in: text old a → new b" in str(
        failed.value
    )
    assert (host.served(), release.Switch.current()) == ("old", "old")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    assert json.loads((folder / "smoke-record.json").read_text()) == {"code": code}, "the report is for people to look at"


def test_first_release_that_fails_its_benchmark_is_served_all_the_same(host: Host, benchmark: Callable[[int], Path]) -> None:
    folder = host.add("first")
    with pytest.raises(BringupError, match="served all the same, since there is no other release to put back"):
        prove("first", benchmark(3))
    assert host.served() == "first"
    assert (folder / ".served").exists(), "the next run measures again, and does not restart it for that"


class Cut(BaseException):
    """The run ends here, as by a power loss."""


@pytest.mark.parametrize("where", ["_wait_until_up", "_prove"])
def test_run_that_was_cut_leaves_a_way_back_to_the_next_one(
    host: Host, benchmark: Callable[[int], Path], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add("old")
    folder = host.add("new")
    prove("old", benchmark(0))

    def cut(*arguments: object) -> None:
        raise Cut

    with monkeypatch.context() as during:
        during.setattr(release.Switch, where, cut)
        with pytest.raises(Cut):
            prove("new", benchmark(0))
    assert not (folder / ".served").exists(), "the next run must see that the switch is due"
    with pytest.raises(BringupError, match="release old, which was served before, is served again"):
        prove("new", benchmark(3))
    assert (host.served(), release.Switch.current()) == ("old", "old")
    prove("new", benchmark(0))
    assert (host.served(), (folder / ".previous").exists()) == ("new", False)


def test_full_disk_leaves_what_was_served(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add("old")
    host.add("new")
    switch("old")
    pid = host.pid

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(systemd.shutil, "copyfile", full)
    with pytest.raises(BringupError, match=r"No space left on device.*; nothing was changed on the running service"):
        switch("new")
    assert (host.served(), release.Switch.current(), host.pid) == ("old", "old", pid)


# vLLM 0.24.0 on an H100, and the wording of 0.33.0 (v1/core/kv_cache_utils.py) on a card and on the CPU
ENGINE = "(EngineCore pid=1) INFO 11-25 00:29:04 [core.py:114] Initializing a V1 LLM engine (v0.24.0) with config: model='/m'"
KV_CACHE_SIZES = {
    "0.24.0": ("(EngineCore pid=1) INFO 11-25 00:29:47 [kv_cache_utils.py:2146] GPU KV cache size: 84,912 tokens", 84912, "+0.19%"),
    "0.33.0": ("GPU KV cache size: 80,000 tokens, Maximum concurrency for 32,768 tokens per request: 2.44x", 80000, "-5.61%"),
    "cpu": ("CPU KV cache size: 84,752 tokens, Maximum concurrency for 2,048 tokens per request: 41.38x", 84752, "as planned"),
}


@pytest.mark.parametrize(("line", "tokens", "off"), KV_CACHE_SIZES.values(), ids=KV_CACHE_SIZES)
def test_kv_cache_is_said_and_kept_beside_the_plans(
    host: Host, capsys: pytest.CaptureFixture[str], line: str, tokens: int, off: str
) -> None:
    folder = host.add("new")
    host.log = [ENGINE, line, *(f"Route: /{number}, Methods: GET" for number in range(3000))]
    switch("new")
    assert f"KV cache: vLLM has {tokens:,} tokens, the plan said 84,752 ({off})" in capsys.readouterr().out
    record = json.loads((folder / "calibration.json").read_text())
    assert (record["logged_tokens"], record["planned_tokens"], record["engine_version"]) == (tokens, 84752, "0.24.0")
    assert record["difference_percent"] == pytest.approx(100 * (tokens / 84752 - 1), abs=0.001)
    assert datetime.fromisoformat(record["time"]).tzinfo is not None


def test_journal_that_is_late_is_waited_for(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = iter([ENGINE, f"{ENGINE}\nGPU KV cache size: 84,912 tokens"])
    monkeypatch.setattr(systemd.Systemd, "log", lambda self, since, lines=25: next(logs))
    monkeypatch.setattr(release, "LOG_DELAY_S", 60)
    host.add("new")
    switch("new")
    assert "vLLM has 84,912 tokens" in capsys.readouterr().out


def test_server_that_does_not_log_its_kv_cache_is_served_all_the_same(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    folder = host.add("new")
    host.log = [ENGINE]
    switch("new")
    assert "vLLM's log does not say its size" in capsys.readouterr().out
    assert not (folder / "calibration.json").exists()
    assert host.served() == "new"


def test_comparison_that_cannot_be_kept_fails_no_deploy(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    folder = host.add("new")
    (folder / "calibration.json").mkdir()
    host.log = ["GPU KV cache size: 84,912 tokens"]
    switch("new")
    assert "vLLM has 84,912 tokens" in (said := capsys.readouterr().out)
    assert "calibration.json" in said
    assert (folder / ".served").exists()

"""From an installed driver to one that runs: what is done next, for every state that a host may be in."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import pytest
from paramiko import SSHException
from pyinfra.connectors.util import CommandOutput, OutputLine

from bringup.plan.driver import DriverPlan
from bringup.plan.driver_activation import activation, why_not_loaded
from bringup.probe.driver_status import parse_driver_status
from deploys.activation import ActivateCommand

PRESENT = DriverPlan(state="present", branch=580, why="a test")
ABSENT = DriverPlan(state="absent", branch=0, why="a test")
HOST = "kernel=6.1.0-40-amd64\nboot_id=1-2\nservice=inactive\n"
NEW, OLD = "580.95.05", "570.195.03"

STATES = {
    "runs": (f"loaded={NEW}\ninstalled={NEW}\nsmi_rc=0\nsmi={NEW} {NEW}", "done", NEW),
    "not-loaded": (f"loaded=\ninstalled={NEW}\nsmi_rc=9\nsmi=couldn't communicate", "load", "no module is loaded"),
    "nouveau": (f"loaded=\ninstalled={NEW}\nnouveau=yes\nsmi_rc=9\nsmi=couldn't", "reboot", "nouveau holds the card"),
    "old-one-loaded": (
        f"loaded={OLD}\ninstalled={NEW}\nsmi_rc=18\nsmi=mismatch",
        "reboot",
        f"module {OLD} is loaded, {NEW} is installed",
    ),
    "not-built": ("loaded=\ninstalled=", "broken", "6.1.0-40-amd64: see /var/lib/dkms/nvidia"),
    "another-one-built": (f"loaded=\ninstalled={OLD}", "broken", f"is {OLD}, not 580"),
    "silent": (f"loaded={NEW}\ninstalled={NEW}\nsmi_rc=124\nsmi=nvidia-smi did not answer within 30 s", "broken", "within 30 s"),
    "silent-without-a-word": (f"loaded={NEW}\ninstalled={NEW}\nsmi_rc=1\nsmi=", "broken", "does not answer: nothing"),
    "no-nvidia-smi": (f"loaded={NEW}\ninstalled={NEW}", "broken", "it is not installed"),
    "another-library": (f"loaded={NEW}\ninstalled={NEW}\nsmi_rc=0\nsmi=580.105.08", "broken", "the library is 580.105.08"),
}


@pytest.mark.parametrize(("text", "step", "said"), STATES.values(), ids=STATES)
def test_next_thing_to_do(text: str, step: str, said: str) -> None:
    due = activation(PRESENT, parse_driver_status(HOST + text))
    assert due.step == step
    assert said in due.why


@pytest.mark.parametrize(
    ("loaded", "installed", "step"),
    [("", "", "done"), (NEW, "", "reboot"), (NEW, OLD, "reboot"), (OLD, OLD, "done")],
    ids=["nothing-left", "still-loaded", "somebody-elses-is-back", "somebody-elses-runs-again"],
)
def test_after_a_removal(loaded: str, installed: str, step: str) -> None:
    assert activation(ABSENT, parse_driver_status(f"{HOST}loaded={loaded}\ninstalled={installed}")).step == step


def test_service_that_runs_is_seen() -> None:
    assert parse_driver_status(HOST.replace("inactive", "active")).serving
    assert not parse_driver_status(HOST).serving


def test_host_that_says_nothing_is_no_status() -> None:
    with pytest.raises(ValueError, match="did not tell"):
        parse_driver_status("sh: 1: Syntax error")


class HangingHost:
    """A host that answers some commands, and hangs in all others as long as somebody waits."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers
        self.said = ""
        self.connector = None

    def run_shell_command(self, command: Any, _timeout: int | None = None, **_: Any) -> tuple[bool, CommandOutput]:
        answer = self.answers.get(str(command))
        if answer is not None:
            return True, CommandOutput([OutputLine("stdout", line) for line in answer.splitlines()])
        assert _timeout is not None
        raise TimeoutError

    def log(self, text: str, *_: Any) -> None:
        self.said += text


HANGS: dict[str, tuple[dict[str, str], str]] = {
    "status": ({}, "the host did not tell the state of its driver within 120 s"),
    "modprobe": ({"status": f"{HOST}loaded=\ninstalled={NEW}"}, "the module was not loaded within 300 s"),
    "garbage": ({"status": "sh: 1: Syntax error"}, "did not tell"),
}


@pytest.mark.parametrize(("answers", "said"), HANGS.values(), ids=HANGS)
def test_host_that_hangs_fails_alone(answers: dict[str, str], said: str) -> None:
    host = HangingHost(answers)
    ok, _ = ActivateCommand("status", PRESENT).execute(None, host, {})  # type: ignore[arg-type]
    assert not ok
    assert said in host.said


class RebootingHost(HangingHost):
    """A host that drops the first connection of its way down, and answers with another boot id from then on."""

    def __init__(self) -> None:
        super().__init__({})
        self.connector = Mock()  # type: ignore[assignment]
        self.disconnect = Mock()
        self.restarted = 0

    def run_shell_command(self, command: Any, _timeout: int | None = None, **_: Any) -> tuple[bool, CommandOutput]:
        if "systemctl reboot" in str(command):
            self.restarted = 1
        elif self.restarted == 1:
            self.restarted = 2
            raise SSHException("Channel is not open")
        status = (
            f"kernel=x\nboot_id={self.restarted}\nloaded={NEW if self.restarted else OLD}\ninstalled={NEW}\nsmi_rc=0\nsmi={NEW}"
        )
        return True, CommandOutput([OutputLine("stdout", line) for line in status.splitlines()])


def test_connection_that_a_host_drops_on_its_way_down_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploys.activation._NO_ANSWER_S", 0)
    host = RebootingHost()
    ok, _ = ActivateCommand("status", PRESENT).execute(None, host, {})  # type: ignore[arg-type]
    assert ok, host.said
    assert (host.restarted, f"driver {NEW} runs" in host.said) == (2, True)


NOT_LOADED = {
    # as 535.309.01 said it of a card whose registers are all zero (tests/vm/test_driver.py)
    "unknown-chip": (
        "modprobe: ERROR: could not insert 'nvidia_current': No such device",
        "[   74.158621] NVRM: The NVIDIA GPU 0000:00:02.0 (PCI ID: 10de:2685)\n"
        "               NVRM: installed in this system is not supported by the\n"
        "               NVRM: NVIDIA 535.309.01 driver release.\n"
        "[   74.173217] NVRM: None of the NVIDIA devices were initialized.",
        ("(PCI ID: 10de:2685) installed in this system is not supported by the NVIDIA 535.309.01", "does not know the card"),
    ),
    "no-card": ("No such device", "[    9.1] NVRM: No NVIDIA GPU found.", ("says: No NVIDIA GPU found. (", "lspci")),
    "unsigned": ("modprobe: ERROR: could not insert 'nvidia': Key was rejected by service", "", ("Secure Boot",)),
    "other-kernel": ("modprobe: ERROR: could not insert 'nvidia': Exec format error", "", ("dkms status",)),
    # as Debian 12's modprobe says it of 535.309.01
    "not-the-wrapper": (
        "modprobe: ERROR: could not insert 'nvidia_current': No such device\n"
        "modprobe: ERROR: ../libkmod/libkmod-module.c:1047 command_do() Error running install command "
        "'modprobe -i nvidia-current ' for module nvidia: retcode 1\n"
        "modprobe: ERROR: could not insert 'nvidia': Invalid argument",
        "",
        ("does not load: modprobe: ERROR: could not insert 'nvidia_current': No such device (see dmesg",),
    ),
    "silent": ("", "", ("modprobe says nothing", "see dmesg")),
}


@pytest.mark.parametrize(("said", "log", "told"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_why_a_module_does_not_load(said: str, log: str, told: tuple[str, ...]) -> None:
    text = why_not_loaded(said, log)
    for part in told:
        assert part in text

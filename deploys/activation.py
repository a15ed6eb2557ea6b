"""Loads an installed driver, or restarts the host for it where that is needed and allowed, and checks what runs then."""

import time
from typing import Any

from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import Host, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.util import CommandOutput

from bringup.plan.driver import DriverPlan
from bringup.plan.driver_activation import Activation, activation, why_not_loaded
from bringup.probe.driver_status import DriverStatus, parse_driver_status

_NO_ANSWER_S = 2
"""Between attempts to reach a host that boots."""
_STATUS_LIMIT_S = 120
"""The status takes seconds, and 30 more where nvidia-smi hangs; a host that went off meanwhile answers never."""
_LOAD_LIMIT_S = 300
"""A module is loaded in seconds; one that hangs in it cannot be ended, and must not hold up the other hosts for ever."""


class ActivateCommand(StringCommand):
    """From an installed driver to one that runs; one restart at most, and none of the control machine."""

    def __init__(self, status_script: str, plan: DriverPlan) -> None:
        """Take the script that prints the driver's status, and what is to run."""
        super().__init__(status_script)
        self.status_script = status_script
        self.plan = plan

    def execute(self, state: Any, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        """Do what it takes; a failure says what is left to be done and by whom."""
        try:
            return self._activate(host, connector_arguments)
        except (ValueError, TimeoutError) as error:
            # an exception would end the run of every host
            return self._failed(host, str(error))

    def _activate(self, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        status = self._status(host, connector_arguments)
        due = activation(self.plan, status)
        if due.step == "load":
            ok, output = self._load(host, connector_arguments)
            status = self._status(host, connector_arguments)
            if not ok or status.loaded is None:
                said = "\n".join(output.output_lines)
                # the last attempt's lines; NVIDIA's messages have up to six
                _, log = self._run(host, 'dmesg | grep -E "NVRM|nvidia:|ockdown|x509" | tail -n 9', connector_arguments)
                return self._failed(host, why_not_loaded(said, "\n".join(log.stdout_lines)))
            due = activation(self.plan, status)
        if due.step == "reboot":
            if refusal := self._refusal(host):
                served = "; until then vllm.service would not come up again if it ended" if status.serving else ""
                return self._failed(host, f"a reboot is due: {due.why}{served}. {refusal}")
            self._reboot(host, status, due, connector_arguments)
            after = self._after(host, status, connector_arguments)
            if after is None:
                # not raised: an exception would end the run of every host
                packages = "installed" if self.plan.state == "present" else "gone"
                return self._failed(
                    host,
                    f"the host did not come back within {self.plan.boot_wait_s} s after its restart (boot_wait_s): look at its "
                    f"console; the driver's packages are {packages}, and a repeated run goes on from there",
                )
            due = activation(self.plan, after)
            if due.step == "load":
                self._load(host, connector_arguments)
                due = activation(self.plan, self._status(host, connector_arguments))
            if due.step != "done":
                return self._failed(host, f"the host was rebooted, and still: {due.why}")
            if status.serving and not self._serve_again(host, connector_arguments):
                return self._failed(
                    host, "the driver runs, but vllm.service, which served before, does not start: see journalctl -u vllm"
                )
        if due.step != "done":
            return self._failed(host, due.why)
        host.log(due.why, logger.info)
        return True, CommandOutput([])

    def _failed(self, host: Host, why: str) -> tuple[bool, CommandOutput]:
        host.log(f"error: {why}", logger.error)
        return False, CommandOutput([])

    def _refusal(self, host: Host) -> str | None:
        if isinstance(host.connector, LocalConnector):
            return "This is the machine that bringup runs on, which it never restarts: reboot it, then run this again"
        if self.plan.reboot == "never":
            return "reboot is 'never': reboot the host, then run this again"
        if self.plan.reboot == "always-ask":
            return "May it be restarted now? Then run this again with --data reboot=if-needed; or reboot it yourself first"
        return None

    def _run(self, host: Host, command: str, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        return host.run_shell_command(StringCommand("sh", "-c", f"'{command}'"), **connector_arguments)

    def _load(self, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        try:
            return self._run(host, "modprobe nvidia", connector_arguments | {"_timeout": _LOAD_LIMIT_S})
        except TimeoutError:
            raise TimeoutError(
                f"the module was not loaded within {_LOAD_LIMIT_S} s, and modprobe still waits: the card or the driver hangs; look "
                "into the kernel log (journalctl -k | grep NVRM), then reboot the host, or switch it off and on"
            ) from None

    def _status(self, host: Host, connector_arguments: Any) -> DriverStatus:
        try:
            _, output = host.run_shell_command(
                StringCommand(self.status_script), **(connector_arguments | {"_timeout": _STATUS_LIMIT_S})
            )
        except TimeoutError:
            raise TimeoutError(f"the host did not tell the state of its driver within {_STATUS_LIMIT_S} s") from None
        return parse_driver_status("\n".join(output.stdout_lines))

    def _reboot(self, host: Host, status: DriverStatus, due: Activation, connector_arguments: Any) -> None:
        if status.serving:
            host.log("stopping vllm.service, so that its running answers end first", logger.info)
            self._run(host, "systemctl stop vllm.service", connector_arguments)
        host.log(f"restarting the host: {due.why}", logger.warning)
        # detached, so that the connection ends before the host does
        self._run(host, "(sleep 1; systemctl reboot) </dev/null >/dev/null 2>&1 &", connector_arguments)
        host.disconnect()

    def _serve_again(self, host: Host, connector_arguments: Any) -> bool:
        """Start what was stopped for the restart, where it does not start by itself at boot, or came before the driver."""
        ok, _ = self._run(host, "systemctl start vllm.service", connector_arguments)
        return ok

    def _after(self, host: Host, before: DriverStatus, connector_arguments: Any) -> DriverStatus | None:
        """Wait for the host's next boot, whose id tells it from the last one; None where it does not come back in time."""
        limit = time.monotonic() + self.plan.boot_wait_s
        while time.monotonic() < limit:
            time.sleep(_NO_ANSWER_S)
            try:
                # not host.connect, which would count each attempt as the host's failure
                host.connector.connect()
                host.connected = True
                status = self._status(host, connector_arguments)
            # a host on its way down may take a connection and drop it before the question
            except (ConnectError, ValueError, OSError, EOFError, SSHException):
                host.disconnect()
                continue
            if status.boot_id != before.boot_id:
                return status
            host.disconnect()
        return None

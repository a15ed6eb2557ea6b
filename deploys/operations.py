"""Operations that pyinfra does not have: long commands with progress, files that no diff may show, model folders, the smoke run."""

import hashlib
import io
import re
import shlex
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pyinfra import host, logger
from pyinfra.api import FileUploadCommand, RsyncCommand, StringCommand, operation
from pyinfra.connectors.util import CommandOutput
from pyinfra.facts.files import File, Sha256File
from pyinfra.operations.util import files as file_utils
from rich.console import Console

from bringup.errors import BringupError
from bringup.model_folder import fingerprint
from bringup.plan.driver import DriverPlan
from bringup.plan.tuning import TuningPlan
from bringup.report.load import read_record
from bringup.report.page import host_page
from bringup.report.text import render
from bringup.verify.compare import compare_settings
from bringup.verify.reading import parse_reading, reading_command
from deploys.activation import ActivateCommand


class StreamedCommand(StringCommand):
    """A command whose lines are shown as they come, since it takes long."""

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        """Run it with its output on the terminal."""
        ok, _ = host.run_shell_command(self, print_output=True, print_input=state.print_input, **connector_arguments)
        # pyinfra prints a failed command's output; this one's was shown already
        return ok, CommandOutput([])


class _ShownRsync(RsyncCommand):
    """A copy that names each file as it starts."""

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> Any:
        return host.rsync(self.src, self.dest, self.flags, print_output=True, print_input=state.print_input, **connector_arguments)


class _SmokeCommand(StreamedCommand):
    """The smoke benchmark: runs on the host, brings its record home and shows the report, also when a line was missed."""

    def __init__(self, *parts: Any, record: str, reports_dir: Path, show: bool) -> None:
        super().__init__(*parts)
        self.record = record
        self.reports_dir = reports_dir
        self.show = show

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        ok, output = super().execute(state, host, connector_arguments)
        self.reports_dir.mkdir(parents=True, exist_ok=True)
        local = self.reports_dir / "incoming.part"
        written, _ = host.run_shell_command(StringCommand("test", "-e", self.record), **connector_arguments)
        if written and host.get_file(self.record, str(local), **connector_arguments):
            try:
                report = read_record(local)
            except BringupError as error:
                host.log(error.message)
                return False, output
            kept = self.reports_dir / f"{re.sub('[^0-9T]', '', report.started_at[:19])}-{report.request.release}.json"
            local.replace(kept)
            kept.with_suffix(".html").write_text(host_page(report, kept), encoding="utf-8")
            if self.show:
                Console(stderr=True).print(render(report, kept))
        return ok, output


class _VerifyTuningCommand(StringCommand):
    """Reads the settings back after they were made, and says what did not take; that stops nothing."""

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        ok, output = host.run_shell_command(self, print_input=state.print_input, **connector_arguments)
        if not ok:
            return ok, output
        try:
            checks = compare_settings(parse_reading(output.stdout))
        except ValueError as error:
            host.log(str(error))
            return False, output
        wrong = [check for check in checks if check.status != "ok"]
        for check in wrong:
            host.log(f"warning: {check.subject} is {check.found}, not {check.expected}: {check.why}", logger.warning)
        host.log(f"{len(checks) - len(wrong)} of {len(checks)} settings read back as planned", logger.info)
        return True, CommandOutput([])


@operation()
def verify_tuning(request: TuningPlan) -> Generator[StringCommand]:
    """Read the settings back that were just made.

    Example::

        verify_tuning(name="Read the settings back", request=plan.tuning)
    """
    yield _VerifyTuningCommand(reading_command(request))


@operation()
def streamed_shell(command: str) -> Generator[StringCommand]:
    """Run a command that takes long; its lines are shown as they come.

    Example::

        streamed_shell(name="Build the engine", command="/opt/bringup/bin/bringup-host build request.json")
    """
    yield StreamedCommand(command)


@operation()
def activate_driver(status_script: str, plan: DriverPlan) -> Generator[StringCommand]:
    """Load an installed driver, or restart the host for it where that is needed and allowed.

    Example::

        activate_driver(name="Load the driver", status_script="sh -c '…'", plan=plan.driver)
    """
    yield ActivateCommand(status_script, plan)


@operation()
def hidden_file(content: bytes, dest: str, user: str = "root", group: str = "root", mode: str = "600") -> Generator[Any]:
    """Put a file whose content no diff, plan or log may show: a secret, or a binary.

    Example::

        hidden_file(name="Put the key", content=b"VLLM_API_KEY=…", dest="/opt/bringup/releases/1a2b/secrets", mode="640")
    """
    present = host.get_fact(File, path=dest)
    if not present or host.get_fact(Sha256File, path=dest) != hashlib.sha256(content).hexdigest():
        # made with its final rights before the content arrives, and put in place in one step
        new, passing = f"{dest}.new", host.get_temp_filename(dest)
        yield StringCommand("install", "-m", mode, "-o", user, "-g", group, "/dev/null", new)
        # with sudo, pyinfra uploads as the login user to a temporary file, under that user's umask
        yield StringCommand("install", "-m", "600", "/dev/null", passing, _sudo=False)
        yield FileUploadCommand(io.BytesIO(content), new, remote_temp_filename=passing)
        yield StringCommand("rm", "-f", passing, _sudo=False)
        yield StringCommand("mv", "-T", new, dest)
        return
    if present["user"] != user or present["group"] != group:
        yield file_utils.chown(dest, user, group)
    if present["mode"] != int(mode):
        yield file_utils.chmod(dest, mode)


@operation()
def passing_command(command: str, contents: dict[str, bytes]) -> Generator[Any]:
    """Run a shell command with files that are on the host only as long as it takes; its lines are shown as they come.

    Example::

        passing_command(name="Look", command="python3 /run/look.py", contents={"/run/look.py": b"print(1)"})
    """
    for path, content in contents.items():
        yield FileUploadCommand(io.BytesIO(content), path, remote_temp_filename=host.get_temp_filename(path))
    script = f"trap {shlex.quote('rm -f ' + shlex.join(contents))} EXIT; {command}"
    yield StreamedCommand(f"sh -c {shlex.quote(script)}")


@operation()
def model_folder(src: str, dest: str, checksums: str) -> Generator[Any]:
    """Copy a model's folder from the control machine: resumable, each file verified by SHA-256, marked when it is whole.

    Example::

        model_folder(name="Copy the model", src="/models/qwen", dest="/var/lib/bringup/models/qwen@1f2e", checksums="…")
    """
    # -L: the files behind links, since a hub's cache consists of links out of the folder. Hidden files are not part of the model,
    # and of those on the host only our own stay (not the half of a file that a killed rsync leaves).
    flags = ["-rLt", "--chmod=D755,F644", "--partial", "--delete", "--filter=H_.*", "--filter=P_.bringup-*", "--info=name1"]
    # pyinfra puts both into a shell command as they are
    yield _ShownRsync(shlex.quote(f"{src.rstrip('/')}/"), shlex.quote(f"{dest}/"), flags)
    yield FileUploadCommand(io.StringIO(checksums), f"{dest}/.bringup-sha256")
    yield StringCommand(
        f"cd {shlex.quote(dest)} && sha256sum --check --quiet .bringup-sha256 && echo {fingerprint(checksums)} > .bringup-complete"
    )


@operation()
def smoke_run(command: str, record: str, reports_dir: str, show: bool = True) -> Generator[StringCommand]:
    """Run the smoke benchmark on the host and keep its record on both machines; a missed line fails the host.

    Without `show` the report is left to who asked for the run.
    """
    yield _SmokeCommand(command, record=record, reports_dir=Path(reports_dir), show=show)

"""`bringup-host`: what the deploy runs on the host, and what an administrator may run there by hand."""

import argparse
import os
import sys
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost.build import build
from bringup.onhost.container import pull
from bringup.onhost.download import download
from bringup.onhost.gpu.check import gpu_check, read_request
from bringup.onhost.keeper import keep
from bringup.onhost.ready import wait_until_ready
from bringup.onhost.release import Switch
from bringup.onhost.say import say
from bringup.onhost.supervisor import properties
from bringup.onhost.tuning import apply_file
from bringup.onhost.watch import FAILURES, INTERVAL_S, tell_gave_up, watch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bringup-host", description=__doc__)
    parser.add_argument("--by", metavar="WHO", help="whom another run is told of while this one is at work")
    commands = parser.add_subparsers(dest="command", required=True)
    switch = commands.add_parser("switch", help="serve a release; the one before is put back if that fails")
    switch.add_argument("digest")
    switch.add_argument("--smoke", type=Path, metavar="REQUEST", help="benchmark that it must pass")
    commands.add_parser("show", help="name the release that is served")
    builder = commands.add_parser("build", help="build a virtual environment from a pinned list")
    builder.add_argument("request", type=Path)
    puller = commands.add_parser("pull", help="get the image of an engine")
    puller.add_argument("request", type=Path)
    downloader = commands.add_parser("download", help="download a model from its hub")
    downloader.add_argument("request", type=Path)
    checker = commands.add_parser("gpu-check", help="look at the cards as they run: driver, link under load, errors, a CUDA kernel")
    checker.add_argument(
        "request", type=Path, nargs="?", help="what is expected, as JSON; without it only the machine itself counts"
    )
    checker.add_argument("--python", help="a Python that has PyTorch, to put the cards to work with")
    checker.add_argument("--user", help="whom that runs as (as root alone)")
    checker.add_argument("--record", type=Path, help="file that keeps the result")
    checker.add_argument("--json", action="store_true", help="print the result as JSON too")
    ready = commands.add_parser("ready", help="wait until the server has answered a request (for vllm.service)")
    ready.add_argument("plan", type=Path)
    watcher = commands.add_parser("watch", help="end a server that does not answer (for vllm-watch.service)")
    watcher.add_argument("--interval-s", type=float, default=INTERVAL_S)
    watcher.add_argument("--failures", type=int, default=FAILURES)
    commands.add_parser("gave-up", help="tell that the service has given up (for vllm-failed.service)")
    commands.add_parser("keep", help="run the server to its end (for the supervisor, where systemd does not run)")
    commands.add_parser("status", help="how the supervised server is, as systemctl show would say it")
    tuner = commands.add_parser("tune", help="make the host's settings, and put back those that are no longer asked for")
    tuner.add_argument("request", type=Path)
    tuner.add_argument("--boot", action="store_true", help="as the machine starts: fail where a value did not take")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed with a message."""
    arguments = _parser().parse_args(argv)
    os.umask(0o022)  # the service's user must be able to read what is built and downloaded
    try:
        if arguments.command == "switch":
            Switch(arguments.digest, arguments.by).run(arguments.smoke)
        elif arguments.command == "build":
            build(arguments.request, arguments.by)
        elif arguments.command == "pull":
            pull(arguments.request, arguments.by)
        elif arguments.command == "download":
            download(arguments.request, arguments.by)
        elif arguments.command == "gpu-check":
            request = read_request(arguments.request) if arguments.request else {}
            given = {name: value for name in ("python", "user") if (value := getattr(arguments, name)) is not None}
            gpu_check(request | given, arguments.record, arguments.json)
        elif arguments.command == "ready":
            wait_until_ready(arguments.plan)
        elif arguments.command == "watch":
            watch(arguments.interval_s, arguments.failures)
        elif arguments.command == "gave-up":
            tell_gave_up()
        elif arguments.command == "keep":
            return keep()
        elif arguments.command == "status":
            for name, value in properties().items():
                say(f"{name}={value}")
        elif arguments.command == "tune":
            failed = apply_file(arguments.request, at_boot=arguments.boot)
            return 1 if failed and arguments.boot else 0
        else:
            say(Switch.current() or "nothing was deployed here")
    except (BringupError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

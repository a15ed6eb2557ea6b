"""`python -m bringup.smoke REQUEST.json --record-dir DIR`: the smoke benchmark as it runs on the host."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.smoke.run import (
    EXIT_CODES,
    EXIT_COULD_NOT_RUN,
    Progress,
    exit_code,
    prepare_record_dir,
    read_request,
    run_smoke,
    write_record,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the request, write its record and return the exit code: 0 passed, 3 failed, 4 inconclusive, 1 could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m bringup.smoke",
        description="Measures a served model and holds it against acceptance lines.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("request", type=Path, metavar="REQUEST.json", help="a request, or the record of an earlier run")
    parser.add_argument("--record-dir", type=Path, required=True, metavar="DIR", help="where the JSON record goes")
    parser.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="replace a value of the request, such as 'stages=[\"ladder\"]'; repeatable",
    )
    parser.add_argument("--no-samples", action="store_true", help="sample nothing beside the load")
    options = parser.parse_args(arguments)
    try:
        request = read_request(options.request, dict(options.set))
        prepare_record_dir(options.record_dir)
        report = run_smoke(request, Progress(lambda line: print(line, flush=True)), sample=not options.no_samples)
        record = write_record(report, options.record_dir)
    except BringupError as error:
        print(error.message, file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    except KeyboardInterrupt:
        print("Interrupted: no record was written.", file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    print(f"{report.outcome}{f': {report.reason}' if report.reason else ''} (record: {record})", flush=True)
    return exit_code(report)


def _assignment(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)  # what is wrong with it, argparse tells


if __name__ == "__main__":
    sys.exit(main())

"""The commands `bringup smoke` and `bringup report`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bringup.errors import BringupError
from bringup.report.load import read_record
from bringup.report.text import render
from bringup.smoke.load import OnSample, first_model
from bringup.smoke.model import (
    AcceptanceLine,
    MetricName,
    RequestSample,
    SmokeReport,
    SmokeRequest,
    clean_base_url,
    validation_sentence,
)
from bringup.smoke.run import exit_code, prepare_record_dir, progress_line, read_api_key, run_smoke, write_record

_PROMPT = "Explain in a few paragraphs how a refrigerator keeps food cold, and why its back is warm."
_EXIT_CODES = "Exit code: 0 every line proven, 3 a line refuted, 4 neither (inconclusive), 1 could not run, 2 wrong usage."


class _LineType(click.ParamType[AcceptanceLine]):
    """`METRIC=VALUE`, such as `ttft_p50_ms=240`."""

    name = "METRIC=VALUE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> AcceptanceLine:
        metric, _, at_most = str(value).partition("=")
        known = get_args(MetricName)
        if metric not in known:
            near = get_close_matches(metric, known) or known
            self.fail(f"unknown metric {metric!r}: did you mean {', '.join(near)}?", param, ctx)
        try:
            return AcceptanceLine.model_validate_strings({"metric": metric, "at_most": at_most})
        except ValidationError:
            self.fail(f"{metric} needs a number of at least 0, such as {metric}=240.", param, ctx)


@click.command(epilog=_EXIT_CODES)
@click.argument("url")
@click.option("--model", metavar="NAME", help="Served model; by default the first that the server lists.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="UTF-8 text to send; by default a short question.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Length of each answer.")
@click.option("--requests", type=click.IntRange(1), help="Measured requests; by default as many as the lines need.")
@click.option("--line", "lines", type=_LineType(), multiple=True, help="Fail when METRIC exceeds VALUE; repeatable.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's API key.")
@click.option("--record-dir", type=click.Path(path_type=Path), help="Folder to keep the JSON record in.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report.")
@click.pass_context
def smoke(
    context: click.Context,
    url: str,
    model: str | None,
    prompt_file: Path | None,
    max_tokens: int,
    requests: int | None,
    lines: tuple[AcceptanceLine, ...],
    api_key_file: Path | None,
    record_dir: Path | None,
    as_json: bool,
) -> None:
    """Measure any OpenAI-compatible server at URL, from this machine."""
    try:
        base_url = clean_base_url(url)
        if model is None:
            model = asyncio.run(first_model(base_url, read_api_key(api_key_file)))
        request = SmokeRequest(
            base_url=base_url,
            model=model,
            prompt=_PROMPT if prompt_file is None else _read_prompt(prompt_file),
            max_tokens=max_tokens,
            requests=requests,
            lines=lines,
            host=urlsplit(url).hostname or "unknown",
            api_key_file=None if api_key_file is None else api_key_file.absolute(),
        )
    except ValidationError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: {validation_sentence(error)}.") from None
    except ValueError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: the address {error}.") from None
    if record_dir is not None:
        prepare_record_dir(record_dir)
    with _progress(request) as on_sample:
        report = run_smoke(request, on_sample)
    record = None if record_dir is None else write_record(report, record_dir)
    _show(report, record, as_json)
    context.exit(exit_code(report))


@click.command(epilog=_EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report.")
@click.pass_context
def report(context: click.Context, file: Path, as_json: bool) -> None:
    """Show the smoke record FILE; the exit code is that of the run."""
    found = read_record(file)
    _show(found, file.resolve(), as_json)  # latest.json will point elsewhere
    context.exit(exit_code(found))


def _read_prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BringupError(f"Cannot read the prompt file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BringupError(f"The prompt file {path} is not UTF-8 text.") from None


@contextmanager
def _progress(request: SmokeRequest) -> Iterator[OnSample]:
    """Show progress on stderr: a bar on a terminal, else a line a request; never drawn during a request."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *sample: click.echo(progress_line(request, *sample), err=True)
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("warming up", total=request.warmup_requests + (request.requests or 29))

        def advance(phase: str, ended: int, sample: RequestSample) -> None:
            progress.update(task, advance=1, description=progress_line(request, phase, ended, sample), refresh=True)

        yield advance


def _show(found: SmokeReport, record: Path | None, as_json: bool) -> None:
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        Console().print(render(found, record))

"""The command `bringup smoke`."""

import asyncio
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from bringup.catalog import load_catalog
from bringup.drive import measure_hosts
from bringup.errors import BringupError
from bringup.report.cli import show
from bringup.smoke.client import first_model
from bringup.smoke.model import (
    AcceptanceLine,
    Arrivals,
    MetricName,
    PromptSet,
    SmokeReport,
    SmokeRequest,
    StageName,
    clean_base_url,
    validation_sentence,
)
from bringup.smoke.run import (
    EXIT_CODES,
    EXIT_COULD_NOT_RUN,
    EXIT_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_PASSED,
    Progress,
    exit_code,
    prepare_record_dir,
    read_api_key,
    run_smoke,
    write_record,
)


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


@click.command(epilog=EXIT_CODES)
@click.argument("target", metavar="URL|HOST|INVENTORY")
@click.option("--model", metavar="NAME", help="Served model; by default the first that the server lists.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True, help="Endpoint.")
@click.option(
    "--profile", metavar="NAME", help="Take prompt, answer length, concurrency and lines of a profile of bringup's catalog."
)
@click.option("--stage", "stages", type=click.Choice(get_args(StageName)), multiple=True, help="What to run; repeatable.")
@click.option("--prompts", type=click.Choice(get_args(PromptSet)), help="Prompts that bringup ships. [default: advice]")
@click.option("--prompt-tokens", type=click.IntRange(1), help="Length of synthetic prompts, as the server counts.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="UTF-8 text to send instead.")
@click.option("--max-tokens", type=click.IntRange(1), help="Length of each answer. [default: 64]")
@click.option("--requests", type=click.IntRange(1), help="Measured requests. [default: as many as the lines need]")
@click.option("--budget", "budget_s", type=click.FloatRange(1), help="Seconds in which they should fit. [default: 60]")
@click.option("--concurrency", type=click.IntRange(1), help="Requests in flight at once. [default: 1]")
@click.option("--rate", "rate_rps", type=click.FloatRange(0, min_open=True), help="Requests a second instead (open loop).")
@click.option("--arrivals", type=click.Choice(get_args(Arrivals)), help="How they are spread. [default: poisson]")
@click.option("--temperature", type=click.FloatRange(0), help="Of sampling. [default: the server's]")
@click.option("--soak", "soak_s", type=click.FloatRange(1), help="Seconds of the stage soak. [default: 600]")
@click.option("--ladder-to", type=click.IntRange(1), help="Highest concurrency of the stage ladder. [default: 32]")
@click.option("--long-tokens", type=click.IntRange(2), help="Longest context of the stage long. [default: the server's]")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME", help="LoRA adapter of the stage swap; repeatable.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds for one request. [default: 60]")
@click.option("--seed", type=int, help="Of arrivals and synthetic prompts. [default: 0]")
@click.option("--line", "lines", type=_LineType(), multiple=True, help="Hold METRIC against VALUE; repeatable.")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="plan.json of what is served, for floors and diagnosis.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's API key.")
@click.option("--record-dir", type=click.Path(path_type=Path), help="Folder to keep the JSON record in.")
@click.option("--no-samples", is_flag=True, help="Sample nothing beside the load.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report; of hosts, one object of all.")
@click.option("--from-here", is_flag=True, help="Measure a HOST from this machine as well, to see what the network adds.")
@click.option("--limit", multiple=True, metavar="HOST", help="Only this host or group of the inventory; repeatable.")
@click.option("--user", metavar="USER", help="SSH user of a HOST.")
@click.option("--port", metavar="PORT", help="SSH port of a HOST.")
@click.option("--key", metavar="FILE", help="SSH key of a HOST.")
@click.pass_context
def smoke(
    context: click.Context,
    /,
    target: str,
    model: str | None,
    profile: str | None,
    prompt_file: Path | None,
    api_key_file: Path | None,
    plan_file: Path | None,
    record_dir: Path | None,
    no_samples: bool,
    as_json: bool,
    from_here: bool,
    limit: tuple[str, ...],
    user: str | None,
    port: str | None,
    key: str | None,
    **options: Any,
) -> None:
    """Measure a server and hold it against acceptance lines.

    A URL is measured from this machine: any OpenAI-compatible server. HOSTs (names for SSH, several with commas, @local) and those
    of an INVENTORY file are measured on the host itself, by what a deploy put there: the release's own lines, unless options say
    otherwise.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if prompt_file is not None:
        given["prompt"] = _read_prompt(prompt_file)
    asked = _of_profile(profile, given) | given
    if "prompts" in asked:
        asked.setdefault("prompt", None)  # in place of the one that a release asks
    if target.startswith(("http://", "https://")) or re.fullmatch(r"[\w.-]+:\d+(/.*)?", target):
        request = _request_for(target, model, api_key_file, plan_file, asked)
        if record_dir is not None:
            prepare_record_dir(record_dir)
        report = run_smoke(request, Progress(_say), sample=not no_samples)
        record = None if record_dir is None else write_record(report, record_dir)
        show(report, record, as_json)
        context.exit(exit_code(report))
    if plan_file is not None or no_samples or model is not None:
        raise click.UsageError("--plan, --model and --no-samples are for a URL: a host has a release with its own")
    access = {"--user": user, "--port": port, "--key": key}
    words = [word for name, value in access.items() if value is not None for word in (name, value)]
    words += [word for name in limit for word in ("--limit", name)]
    reports = measure_hosts(target, words, asked, record_dir or Path("reports"))
    if from_here:
        measured = {name: report for name, report in reports.items() if report is not None}
        reports |= {f"{name} from here": _measure_from_here(report, api_key_file) for name, report in measured.items()}
    _show_hosts(reports, as_json)
    codes = [EXIT_COULD_NOT_RUN if report is None else exit_code(report) for report in reports.values()]
    context.exit(next((code for code in (EXIT_COULD_NOT_RUN, EXIT_FAILED, EXIT_INCONCLUSIVE) if code in codes), EXIT_PASSED))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _request_for(
    url: str, model: str | None, api_key_file: Path | None, plan_file: Path | None, asked: Mapping[str, Any]
) -> SmokeRequest:
    try:
        base_url = clean_base_url(url)
        return SmokeRequest(
            base_url=base_url,
            model=model or asyncio.run(first_model(base_url, read_api_key(api_key_file))),
            host=urlsplit(url).hostname or "unknown",
            api_key_file=None if api_key_file is None else api_key_file.absolute(),
            plan_file=None if plan_file is None else plan_file.absolute(),
            **asked,
        )
    except ValidationError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: {validation_sentence(error)}.") from None
    except ValueError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: the address {error}.") from None


def _measure_from_here(report: SmokeReport, api_key_file: Path | None) -> SmokeReport:
    """Send the same load from this machine; what is known of the host comes with its own record."""
    if api_key_file is None and report.request.api_key_file is not None:
        raise BringupError(f"{report.host} wants an API key: name its file here with --api-key-file.")
    if report.host != "@local" and urlsplit(report.request.base_url).hostname in ("127.0.0.1", "::1", "localhost"):
        raise BringupError(f"{report.host} serves on its own loopback address alone: from here it cannot be reached.")
    own = {"api_key_file": api_key_file and api_key_file.absolute(), "plan_file": None, "facts_file": None}
    request = report.request.model_copy(update=own)
    _say(f"{report.host} from here, at {request.base_url}")
    return run_smoke(request, Progress(_say)).model_copy(update={"plan": report.plan, "facts": report.facts})


def _show_hosts(reports: Mapping[str, SmokeReport | None], as_json: bool) -> None:
    if as_json:
        documents = {name: report and report.model_dump(mode="json") for name, report in reports.items()}
        click.echo(json.dumps({"hosts": documents}, indent=2, ensure_ascii=False))
        return
    for name, report in reports.items():
        if report is None:
            click.echo(f"{name}: no record; the messages above say why")
        else:
            show(report, None, as_json=False)


def _of_profile(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a profile asks for, as far as the command line does not choose other prompts."""
    if name is None:
        return {}
    profile = load_catalog().profile(name)
    lines = tuple(
        AcceptanceLine.model_validate({"metric": metric, "at_most": most}) for metric, most in profile.smoke.lines.items()
    )
    own_prompt = {} if {"prompts", "prompt"} & given.keys() else {"prompt": profile.smoke.prompt}
    return {
        "profile": name,
        "max_tokens": profile.smoke.max_tokens,
        "concurrency": profile.concurrency,
        "timeout_s": 120,
        "lines": lines,
        **own_prompt,
    }


def _read_prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BringupError(f"Cannot read the prompt file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BringupError(f"The prompt file {path} is not UTF-8 text.") from None

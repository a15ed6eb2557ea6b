"""The command `bringup smoke`."""

import asyncio
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.report.cli import show
from bringup.smoke.client import first_model
from bringup.smoke.model import (
    AcceptanceLine,
    Arrivals,
    MetricName,
    PromptSet,
    SmokeRequest,
    StageName,
    clean_base_url,
    validation_sentence,
)
from bringup.smoke.run import EXIT_CODES, Progress, exit_code, prepare_record_dir, read_api_key, run_smoke, write_record


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
@click.argument("url")
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
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report.")
@click.pass_context
def smoke(
    context: click.Context,
    /,
    url: str,
    model: str | None,
    profile: str | None,
    prompt_file: Path | None,
    api_key_file: Path | None,
    plan_file: Path | None,
    record_dir: Path | None,
    no_samples: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure any OpenAI-compatible server at URL, from this machine."""
    try:
        base_url = clean_base_url(url)
        if model is None:
            model = asyncio.run(first_model(base_url, read_api_key(api_key_file)))
        given = {name: value for name, value in options.items() if value not in (None, ())}
        if prompt_file is not None:
            given["prompt"] = _read_prompt(prompt_file)
        request = SmokeRequest(
            base_url=base_url,
            model=model,
            host=urlsplit(url).hostname or "unknown",
            api_key_file=None if api_key_file is None else api_key_file.absolute(),
            plan_file=None if plan_file is None else plan_file.absolute(),
            **(_of_profile(profile, given) | given),
        )
    except ValidationError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: {validation_sentence(error)}.") from None
    except ValueError as error:
        raise BringupError(f"Cannot run a smoke benchmark against {url}: the address {error}.") from None
    if record_dir is not None:
        prepare_record_dir(record_dir)
    report = run_smoke(request, Progress(lambda line: click.echo(line, err=True)), sample=not no_samples)
    record = None if record_dir is None else write_record(report, record_dir)
    show(report, record, as_json)
    context.exit(exit_code(report))


def _of_profile(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a profile asks for, as far as the command line does not choose other prompts."""
    if name is None:
        return {}
    profiles = load_catalog().profiles
    if name not in profiles:
        raise BringupError(f"There is no profile {name!r}: take one of {', '.join(profiles)}.")
    profile = profiles[name]
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

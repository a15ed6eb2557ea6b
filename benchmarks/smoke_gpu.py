"""The full smoke benchmark against a vLLM that already runs here, without a deploy: three profiles, ladder, long prompts.

It needs the standard library, aiohttp, pydantic, PyYAML, psutil and nvidia-ml-py, all of which vLLM's own environment has. Run it
from the project's folder, with the Python of that environment:

    python3 -m benchmarks.smoke_gpu --url http://127.0.0.1:8000 --out OUT [--profile interactive …] [--plan interactive=plan.json]

Each run leaves a JSON record in OUT/<profile>/, with this machine's facts and a plan: the one that is given (`bringup plan --json`
prints one), or the one that bringup makes for this machine. What is served need not be what is planned; the report shows both.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.hardware import HostFacts
from bringup.plan import make_plan
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script
from bringup.settings import Settings
from bringup.smoke.client import first_model
from bringup.smoke.model import AcceptanceLine, SmokeReport, SmokeRequest, StageName
from bringup.smoke.run import Progress, prepare_record_dir, run_smoke, write_record

PROFILES = ("interactive", "concurrent", "long-document")
STAGES: dict[str, tuple[StageName, ...]] = {
    "interactive": ("smoke", "ladder"),
    "concurrent": ("smoke",),
    "long-document": ("smoke", "long"),
}


def main() -> int:
    """Run every profile; return 0 when all ran, whatever their outcome is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="by default all three")
    parser.add_argument("--plan", action="append", default=[], metavar="PROFILE=FILE")
    parser.add_argument("--ladder-to", type=int, default=32)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each profile's requests")
    parser.add_argument("--real-weights", action="store_true", help="ask the questions of the stage quality as well")
    parser.add_argument("--line", action="append", default=[], metavar="METRIC=VALUE", help="instead of the profiles' lines")
    options = parser.parse_args()
    plans = dict(entry.split("=", 1) for entry in options.plan)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = parse_host(_probe())
    facts_file = options.out / "facts.json"
    facts_file.write_text(facts.model_dump_json(indent=2), encoding="utf-8")
    catalog = load_catalog()
    model = asyncio.run(first_model(options.url, None))
    for name in options.profile or PROFILES:
        folder = options.out / name
        prepare_record_dir(folder)
        plan_file = Path(plans[name]) if name in plans else _plan(folder, facts, name)
        profile = catalog.profiles[name]
        lines = [entry.split("=", 1) for entry in options.line] or list(profile.smoke.lines.items())
        stages = (*STAGES[name], *(("quality",) if options.real_weights else ()))
        request = SmokeRequest(
            base_url=options.url,
            model=model,
            prompt=profile.smoke.prompt,
            max_tokens=profile.smoke.max_tokens,
            concurrency=profile.concurrency,
            budget_s=options.budget,
            timeout_s=120,
            stages=stages,
            ladder_to=options.ladder_to,
            lines=tuple(AcceptanceLine.model_validate({"metric": metric, "at_most": value}) for metric, value in lines),
            host=socket.gethostname(),
            profile=name,
            plan_file=plan_file,
            facts_file=facts_file,
            demo_model=not options.real_weights,
        )
        print(f"== {name}: {', '.join(stages)}", flush=True)
        report = run_smoke(request, Progress(lambda line: print(line, flush=True)))
        _tell(report, write_record(report, folder))
    return 0


def _probe() -> str:
    return subprocess.run(["/bin/sh", "-c", probe_script()], capture_output=True, text=True, errors="replace", check=False).stdout


def _plan(folder: Path, facts: HostFacts, profile: str) -> Path | None:
    """Write the plan that bringup makes for this machine; None, and why, where it makes none."""
    try:
        plan = make_plan(facts, Settings(profile=profile), load_catalog())
    except BringupError as error:
        print(f"no plan for {profile}: {error.message}", flush=True)
        return None
    path = folder / "plan.json"
    path.write_text(plan.record(), encoding="utf-8")
    return path


def _tell(report: SmokeReport, record: Path) -> None:
    print(f"{report.outcome} {report.reason}")
    for verdict in report.verdicts:
        print(json.dumps(verdict.model_dump(exclude_none=True), ensure_ascii=False))
    for stage in report.stages:
        concurrency = f"{stage.load.concurrency} at once" if stage.load.concurrency else f"{stage.load.rate_rps}/s"
        print(f"{stage.name}, {concurrency}: {stage.summary.model_dump_json(exclude_none=True)} {stage.note}")
    if report.ladder:
        print(report.ladder.model_dump_json())
    for cause in report.causes:
        print(f"cause ({cause.confidence}): {cause.title} {'; '.join(cause.evidence)}")
    print(f"record: {record}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Our client beside `vllm bench serve` on one server: medians of TTFT, ITL and E2E, in turns, pooled.

    python -m benchmarks.smoke_beside_vllm --url http://127.0.0.1:8000 --vllm-python ENGINE/bin/python [--tokenizer FOLDER]

The server must not cache prefixes (`--no-enable-prefix-caching`): `vllm bench serve` sends what it has sent before. Both use
`/v1/completions`, since vLLM's own client takes a chat's role chunk for the first token. The rounds alternate, so that what the
machine does besides falls on both alike.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bringup.smoke.client import first_model
from bringup.smoke.model import SmokeRequest
from bringup.smoke.run import run_smoke
from bringup.smoke.summary import measured

METRICS = ("ttft", "itl", "e2e")
LIMIT = 0.03
# what the command `vllm bench serve` does; the command itself does not start in the CPU build, whose package has another name
_BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
Times = dict[str, list[float]]
"""Metric to milliseconds of all requests (ITL: of all gaps)."""


def ours(url: str, model: str, options: argparse.Namespace, streams: int, seed: int) -> Times:
    """One round of the smoke benchmark's load."""
    request = SmokeRequest(
        base_url=url,
        model=model,
        api="completions",
        prompts="synthetic",
        prompt_tokens=options.prompt_tokens,
        max_tokens=options.output_tokens,
        requests=options.requests * streams,
        warmup_requests=streams,
        concurrency=streams,
        temperature=0,
        seed=seed,
        timeout_s=600,
        host="here",
    )
    [stage] = run_smoke(request, lambda *_: None, sample=False).stages
    samples = measured(stage.requests)
    if failed := [sample.error for sample in samples if sample.error]:
        raise SystemExit(f"{len(failed)} requests of ours failed: {failed[0]}")
    return {
        "ttft": [sample.ttft_ms or 0 for sample in samples],
        "itl": [gap for sample in samples for gap in sample.itl_ms],
        "e2e": [sample.e2e_ms or 0 for sample in samples],
    }


def theirs(url: str, model: str, options: argparse.Namespace, streams: int, seed: int) -> Times:
    """One round of `vllm bench serve`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.vllm_python, "-c", _BENCH_SERVE, "--backend", "openai"]
        command += ["--base-url", url, "--endpoint", "/v1/completions", "--model", model, "--tokenizer", options.tokenizer or model]
        command += ["--dataset-name", "random", "--random-input-len", str(options.prompt_tokens)]
        command += ["--random-output-len", str(options.output_tokens), "--ignore-eos", "--temperature", "0", "--seed", str(seed)]
        command += ["--num-prompts", str(options.requests * streams), "--max-concurrency", str(streams)]
        command += ["--num-warmups", str(streams), "--save-result", "--save-detailed", "--result-dir", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        results = list(Path(folder).glob("*.json"))
        if done.returncode or not results:
            raise SystemExit(f"vllm bench serve did not get through:\n{done.stdout[-3000:]}")
        found = json.loads(results[0].read_text())
    pairs = list(zip(found["ttfts"], found["itls"], strict=True))
    return {
        "ttft": [1000 * ttft for ttft, _ in pairs],
        "itl": [1000 * gap for _, gaps in pairs for gap in gaps],
        "e2e": [1000 * (ttft + sum(gaps)) for ttft, gaps in pairs],
    }


def main() -> int:
    """Run the rounds and print the medians; return 1 where one is more than 3 % off."""
    parser = argparse.ArgumentParser(description="Our client beside vllm bench serve.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--tokenizer", help="the model's folder; by default the served name")
    parser.add_argument("--streams", type=int, action="append", help="by default 1 and 8")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=10, help="a stream and round")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    options = parser.parse_args()
    model = asyncio.run(first_model(options.url, None))
    table = Table("Streams", "Metric", "Ours P50 ms", "vllm bench P50 ms", "Difference", "Requests each")
    good = True
    for streams in options.streams or (1, 8):
        pooled: tuple[Times, Times] = ({name: [] for name in METRICS}, {name: [] for name in METRICS})
        for number in range(options.rounds):
            for into, measure in (zip(pooled, (ours, theirs), strict=True), zip(pooled[::-1], (theirs, ours), strict=True))[
                number % 2
            ]:
                _extend(into, measure(options.url, model, options, streams, number))
        for name in METRICS:
            mine, other = (median(times[name]) for times in pooled)
            good &= abs(mine / other - 1) <= LIMIT
            table.add_row(
                str(streams), name.upper(), f"{mine:.2f}", f"{other:.2f}", f"{mine / other - 1:+.1%}", str(len(pooled[0]["ttft"]))
            )
    Console(width=120).print(table)
    return 0 if good else 1


def _extend(into: Times, found: Mapping[str, list[float]]) -> None:
    for name, values in found.items():
        into[name].extend(values)


if __name__ == "__main__":
    sys.exit(main())

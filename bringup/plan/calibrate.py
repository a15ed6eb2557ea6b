"""A server's start-up log and the plan it was started with → constants with which the formula gives what was logged.

vLLM logs sizes in GiB to two decimals and its KV cache in tokens. What a log can tell of a size is therefore a range, and a
constant that lies in it stays as it is: it comes from a finer measurement.
"""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from bringup.catalog import Catalog
from bringup.catalog.calibration import Calibration
from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.plan.capacity import MemoryBudget

_GIB = 2**30
_MIB = 2**20
_HALF_UNIT_GIB = 0.005
"""vLLM rounds to 0.01 GiB (utils/mem_utils.py: format_gib)."""
LEARNT_MARGIN = 0.005
"""Part of the KV cache that is kept back with constants out of one log. Judgement: with constants that were measured by the byte
the formula was at most 0.13 % over in 27 runs, and one log shows one batch."""
_OTHER_MODEL = 0.1
"""Weights that are off by more than this part are taken for another model's. Judgement: the formula was off by 0.1 % at most."""

_BANNER = r"(?:█.*|vLLM (?:API )?server )version (\d+\.\d+[\w.+]*)"
_ENGINE = r"Initializing a V1 LLM engine \(v([\w.+]+)\)"
_LOADED = r"Model loading took (-?[\d.]+) GiB"
_KV_CACHE = r"Available KV cache memory: (-?[\d.]+) GiB"
_KV_TOKENS = r"GPU KV cache size: ([\d,]+) tokens"

_MEMORY_OPTIONS = (
    "block-size",
    "data-parallel-size",
    "enable-lora",
    "enforce-eager",
    "gpu-memory-utilization",
    "kv-cache-dtype",
    "kv-cache-memory-bytes",
    "max-model-len",
    "max-num-batched-tokens",
    "max-num-seqs",
    "num-gpu-blocks-override",
    "pipeline-parallel-size",
    "quantization",
    "speculative-config",
    "tensor-parallel-size",
)
"""Options of `vllm serve` that decide what memory is taken for what."""


class StartupLog(Frozen):
    """What a server on a card logged of its memory while it started."""

    engine_version: str
    loaded_gib: float
    kv_cache_gib: float
    """What it found left for the KV cache."""
    kv_cache_tokens: int | None
    """None where the server refused its configuration before it made the cache."""
    max_model_len: int | None
    graphs_gib: float | None
    """CUDA graphs as captured; None with enforce-eager, and where the server did not come that far."""
    graphs_estimate_gib: float | None
    """What newer versions subtracted for them."""
    options: dict[str, Any]
    """Of `_MEMORY_OPTIONS`, those that the log says were set."""


class PlannedServer(BaseModel, frozen=True):
    """What is needed of a plan.json; the rest of it is not looked at."""

    class Prediction(BaseModel, frozen=True):
        """What the plan expected."""

        kv_cache_tokens: int
        memory: MemoryBudget | None

    class Choice(BaseModel, frozen=True):
        """One of its decisions."""

        key: str
        why: str = ""

    model: str
    gpu: str | None
    engine: str
    vllm: dict[str, Any]
    predicted: Prediction
    decisions: tuple[Choice, ...]

    @property
    def memory(self) -> MemoryBudget:
        """Its account of the card's memory.

        Raises:
            BringupError: the plan is of a server on the CPU.
        """
        if self.predicted.memory is None:
            raise BringupError(
                "the plan is of a server on the CPU, whose KV cache is as large as it is set: there is nothing to learn"
            )
        return self.predicted.memory


class Comparison(Frozen):
    """A number of the plan beside the log's."""

    name: str
    planned: float
    logged: float
    unit: str
    """``GiB`` or ``tokens``"""


class CalibrationFile(Frozen):
    """Constants of one's own, in a file like catalog/calibrations.yaml."""

    calibrations: tuple[Calibration, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        """Refuse what YAML can say and no card can have, and a pair that is there twice."""
        pairs = [_pair(entry) for entry in self.calibrations]
        for entry in self.calibrations:
            name = f"vLLM {entry.engine_version} with compute capability {entry.compute_capability}"
            if pairs.count(_pair(entry)) > 1:
                raise ValueError(f"{name} is there more than once")
            for field, value in entry:
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"{field} of {name} is {value}")
        return self


def read_startup_log(text: str) -> StartupLog:
    """Find in a log what the last start in it said of memory; lines of journald and containers may have anything in front.

    Raises:
        BringupError: it is no log of a vLLM server on a card, or it ends before the memory was measured.
    """
    start = _last_start(re.sub(r"\x1b\[[0-9;]*m", "", text))
    version = _last(_ENGINE, start) or _last(_BANNER, start)
    if version is None:
        raise BringupError(
            "this is no log of vLLM's start: it has neither 'vLLM server version …', the logo with the version, nor 'Initializing "
            "a V1 LLM engine (v…)'"
        )
    loaded, kv_cache = _last(_LOADED, start), _last(_KV_CACHE, start)
    if loaded is None or kv_cache is None:
        sizes = {"'Model loading took … GiB'": loaded, "'Available KV cache memory: … GiB'": kv_cache}
        missing = " and none with ".join(name for name, found in sizes.items() if found is None)
        raise BringupError(
            f"the last start of vLLM {version} in this log does not say what memory it took: it has no line with {missing}. The "
            "log is cut off, or the server runs on the CPU, with kv-cache-memory-bytes, or logs warnings only"
        )
    tokens = _last(_KV_TOKENS, start)
    length = _last(r"Maximum concurrency for ([\d,]+) tokens per request", start) or _last(r"model's max seq len \((\d+)\)", start)
    return StartupLog(
        engine_version=version.partition("+")[0],
        loaded_gib=float(loaded),
        kv_cache_gib=float(kv_cache),
        kv_cache_tokens=_whole(tokens),
        max_model_len=_whole(length),
        graphs_gib=_number(_last(r"Graph capturing finished in .*, took (-?[\d.]+) GiB", start)),
        graphs_estimate_gib=_number(_last(r"CUDA graph pool memory: .*, (-?[\d.]+) GiB \(estimated\)", start)),
        options=_logged_options(start),
    )


def planned_server(content: Mapping[str, Any]) -> PlannedServer:
    """Take what is needed out of a plan.json.

    Raises:
        BringupError: it lacks something; the message names the field.
    """
    try:
        return PlannedServer.model_validate(content)
    except ValidationError as error:
        raise BringupError(f"the plan cannot be used: {_first_problem(error)}: make it again with bringup plan --json") from None


def compare(log: StartupLog, plan: PlannedServer) -> list[Comparison]:
    """Put the log's numbers beside the plan's; sizes of the KV cache without the margin that the plan keeps back."""
    memory = plan.memory
    planned_left = memory.kv_cache_bytes + memory.margin_bytes
    rest = memory.budget_bytes - planned_left - memory.weights_bytes
    found = [
        Comparison(name="weights, loaded", planned=memory.weights_bytes / _GIB, logged=log.loaded_gib, unit="GiB"),
        Comparison(
            name="batch, libraries and the like",
            planned=rest / _GIB,
            logged=memory.budget_bytes / _GIB - log.kv_cache_gib - log.loaded_gib,
            unit="GiB",
        ),
        Comparison(name="KV cache", planned=planned_left / _GIB, logged=log.kv_cache_gib, unit="GiB"),
    ]
    graphs = _graphs_gib(log, memory)
    if graphs is not None:
        found.append(Comparison(name="CUDA graphs", planned=memory.graphs_bytes / _GIB, logged=graphs, unit="GiB"))
    if log.kv_cache_tokens is not None:
        back = memory.margin_bytes / max(1, planned_left)
        name = f"KV cache, {back:.1%} kept back by the plan"
        found.append(Comparison(name=name, planned=plan.predicted.kv_cache_tokens, logged=log.kv_cache_tokens, unit="tokens"))
    return found


def learn(log: StartupLog, plan: PlannedServer, base: Calibration, compute_capability: str, source: str) -> Calibration:
    """Return `base` with its constants moved so far that the formula gives the KV cache that was logged.

    Args:
        log: of the server.
        plan: that it was started with.
        base: the constants that the plan was made with.
        compute_capability: of the card.
        source: where and when the log was written.

    Raises:
        BringupError: log, plan and constants do not belong together; the message says by what that shows.
    """
    memory = plan.memory
    _refuse_strangers(log, plan, base)
    load_mib = base.load_mib + _correction(memory.weights_bytes, log.loaded_gib) / _MIB
    graphs = _graphs_gib(log, memory)
    graphs_change_mib = 0.0 if graphs is None else _correction(memory.graphs_bytes, graphs) / _MIB
    sequences = int(plan.vllm.get("max-num-seqs", 0))
    graphs_mib, per_sequence_mib = base.graphs_mib + graphs_change_mib, base.graphs_per_sequence_mib
    if graphs_mib < 0 and sequences:  # one log cannot tell the two apart
        graphs_mib, per_sequence_mib = 0.0, max(0.0, (memory.graphs_bytes / _MIB + graphs_change_mib) / sequences)
    as_planned = load_mib == base.load_mib and (not memory.graphs_in_budget or not graphs_change_mib)
    left = _left_bytes(log, memory, as_planned)
    # what is short of it, beyond what the weights and graphs explain, is memory that PyTorch does not know
    short_mib = (memory.kv_cache_bytes + memory.margin_bytes - left) / _MIB - (load_mib - base.load_mib)
    if memory.graphs_in_budget:
        short_mib -= graphs_change_mib
    non_torch_mib = base.non_torch_mib + short_mib
    if non_torch_mib < 0:
        raise BringupError(
            f"vLLM's KV cache of {log.kv_cache_gib} GiB is larger than the plan's gpu-memory-utilization of "
            f"{plan.vllm.get('gpu-memory-utilization')} allows: the server was started with another, or on another card"
        )
    return base.model_copy(
        update={
            "compute_capability": compute_capability,
            "calibrated": True,
            "margin": LEARNT_MARGIN,
            "non_torch_mib": round(non_torch_mib, 3),
            "load_mib": round(load_mib, 3),
            "graphs_mib": round(graphs_mib, 3),
            "graphs_per_sequence_mib": round(per_sequence_mib, 6),
            "evidence": "measured",
            "source": source,
        }
    )


def merged(entries: Iterable[Calibration], learnt: Calibration) -> tuple[Calibration, ...]:
    """The entries with a new one in place of that of the same version and card."""
    return (learnt, *(entry for entry in entries if _pair(entry) != _pair(learnt)))


def as_yaml(entries: Iterable[Calibration]) -> str:
    """Write a file that `--calibration` and the setting `calibration_file` read."""
    content = {"calibrations": [entry.model_dump(mode="json") for entry in entries]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=132)


def read_calibrations(path: Path) -> tuple[Calibration, ...]:
    """Read a file of one's own constants.

    Raises:
        BringupError: it cannot be read or used; the message names file and field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BringupError(f"the calibration file {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BringupError(f"the calibration file {path} is not YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("calibrations"), list):
        raise BringupError(f"{path} is no calibration file: it has no list 'calibrations'; bringup calibrate --out makes one")
    try:
        return CalibrationFile.model_validate(content).calibrations
    except ValidationError as error:
        raise BringupError(f"the calibration file {path} cannot be used: {_first_problem(error)}") from None


def with_calibrations(catalog: Catalog, entries: Iterable[Calibration]) -> Catalog:
    """The catalog, with entries of one's own before its own."""
    return catalog.model_copy(update={"calibrations": (*entries, *catalog.calibrations)})


def _pair(entry: Calibration) -> tuple[str, str | None]:
    return entry.engine_version, entry.compute_capability


def _last_start(text: str) -> str:
    """What was logged from the last start on; a service's log holds several."""
    for mark in (_BANNER, "non-default args: ", _ENGINE):
        found = list(re.finditer(mark, text))
        if found:
            return text[found[-1].start() :]
    return text


def _last(pattern: str, text: str) -> str | None:
    found: list[str] = re.findall(pattern, text)
    return found[-1] if found else None


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text.replace(",", ""))


def _logged_options(start: str) -> dict[str, Any]:
    line = _last(r"non-default args: (.*)", start) or ""
    options = {}
    for name in _MEMORY_OPTIONS:
        text = _last(rf"'{name.replace('-', '_')}': ([^,}}]+)", line)
        if text is not None:
            options[name] = _literal(text)
    return options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _graphs_gib(log: StartupLog, memory: MemoryBudget) -> float | None:
    """The size that counts: a version that subtracts its graphs from the KV cache does so before it captures them."""
    if memory.graphs_in_budget and log.graphs_estimate_gib is not None:
        return log.graphs_estimate_gib
    return log.graphs_gib


def _correction(planned_bytes: int, logged_gib: float) -> float:
    """Bytes that a planned size is off; 0 where the log does not tell it from the planned one."""
    off = logged_gib * _GIB - planned_bytes
    return 0.0 if abs(off) <= _HALF_UNIT_GIB * _GIB else off


def _left_bytes(log: StartupLog, memory: MemoryBudget, as_planned: bool) -> int:
    """What was left for the KV cache: the plan's own figure where the log does not tell it from another, else the middle of what
    the log leaves open."""
    blocks = _blocks(log, memory)
    if blocks is None:
        low, high = ((log.kv_cache_gib + half) * _GIB for half in (-_HALF_UNIT_GIB, _HALF_UNIT_GIB))
    else:
        block_bytes = memory.bytes_per_token * memory.block_tokens
        low, high = blocks * block_bytes, (blocks + 1) * block_bytes
    planned = memory.kv_cache_bytes + memory.margin_bytes
    return planned if as_planned and low <= planned < high else int((low + high) / 2)


def _blocks(log: StartupLog, memory: MemoryBudget) -> int | None:
    """Blocks of the KV cache. vLLM logs what requests of full length fill, and the last block of such a request may be filled
    in part (v1/core/kv_cache_utils.py: get_kv_cache_capacity)."""
    if log.kv_cache_tokens is None:
        return None
    length = log.max_model_len or memory.block_tokens
    return round(log.kv_cache_tokens / length * -(-length // memory.block_tokens))


def _refuse_strangers(log: StartupLog, plan: PlannedServer, base: Calibration) -> None:
    memory = plan.memory
    if log.engine_version != base.engine_version:
        raise BringupError(f"the log is of vLLM {log.engine_version}, the plan is for {base.engine_version}")
    constants = (base.non_torch_mib, base.non_torch_mib + base.fp8_kv_mib)
    if memory.non_torch_bytes not in [int(mib * _MIB) for mib in constants] or memory.context_bytes != int(base.context_mib * _MIB):
        raise BringupError(
            "the plan was made with other constants than the catalog and --calibration have now: name the file that it was made "
            "with, or make the plan again"
        )
    logged = dict(log.options)
    if log.max_model_len is not None:
        logged["max-model-len"] = log.max_model_len
    for name, value in logged.items():
        if value != plan.vllm.get(name):
            raise BringupError(
                f"the log is of another server than the plan: {name} is {value} in the log and {plan.vllm.get(name, 'not set')} in "
                "the plan"
            )
    if log.graphs_gib is not None and not memory.graphs_bytes:
        raise BringupError("the log is of another server than the plan: it captured CUDA graphs, the plan has enforce-eager")
    if abs(log.loaded_gib * _GIB - memory.weights_bytes) > _OTHER_MODEL * memory.weights_bytes:
        raise BringupError(
            f"the log is of another model than the plan: it loaded {log.loaded_gib} GiB, and {plan.model} takes "
            f"{memory.weights_bytes / _GIB:.2f} GiB as planned"
        )
    blocks = _blocks(log, memory)
    if blocks is not None:
        block_bytes = memory.bytes_per_token * memory.block_tokens
        if not -_HALF_UNIT_GIB <= log.kv_cache_gib - blocks * block_bytes / _GIB <= _HALF_UNIT_GIB + block_bytes / _GIB:
            raise BringupError(
                f"the log is of another model or kv-cache-dtype than the plan: {log.kv_cache_tokens:,} tokens take "
                f"{blocks * block_bytes / _GIB:.2f} GiB as planned, and the log has {log.kv_cache_gib} GiB for them"
            )

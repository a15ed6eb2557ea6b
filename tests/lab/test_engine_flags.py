"""Every flag that the catalog gives the CPU engine, fed to that engine's own argument parser on a throw-away host."""

import json
import shlex
from typing import Any

import pytest
from deployment import Deployment

from bringup.catalog import load_catalog
from bringup.catalog.entries import Engine, EngineFlag, EngineSetting

pytestmark = pytest.mark.lab

# each value goes the way that a deploy's goes: through a YAML file that --config names
_PARSE = """
import importlib, json, sys, tempfile
from vllm.utils.argparse_utils import FlexibleArgumentParser
wanted = json.loads(sys.argv[1])
parser = importlib.import_module(wanted["module"]).make_arg_parser(FlexibleArgumentParser())
refused, defaults = [], {}
for name, values in wanted["values"].items():
    for value in values:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump({name: value}, file)
            file.flush()
            try:
                parser.parse_args(["--config", file.name])
            except SystemExit:
                refused.append([name, value])
    action = parser._option_string_actions.get("--" + name)
    if action is not None:
        # an enumeration is worth its number, as in the YAML file
        default = getattr(action.default, "value", action.default)
        defaults[name] = default if isinstance(default, (bool, int, float, str)) else None
print("RESULT", json.dumps({"refused": refused, "defaults": defaults}))
"""


def values_of(flag: EngineSetting) -> list[Any]:
    """Values that vLLM must take: all choices, or both ends of the range, or one that looks like it."""
    ends = [end for end in (flag.least, flag.most) if end is not None]
    match flag.type:
        case "bool":
            return [True, False]
        case "choice":
            return list(flag.choices)
        case "int":
            return list(flag.choices) or [int(end) for end in ends] or [4096]
        case "float":
            return ends or [0.5]
        case "json":
            return ['{"max_new_tokens": 7}']
        case "strings":
            return ["a=/b"]
        case "str":
            return ["text"]


def parser_request(engine: Engine, flags: dict[str, EngineSetting] | dict[str, EngineFlag]) -> str:
    """What `_PARSE` is to try, as its argument."""
    special = {
        "speculative-config": ['{"method": "ngram", "num_speculative_tokens": 3}'],
        "allowed-origins": ['["https://chat.example.org"]'],
    }
    values = {name: special.get(name, values_of(flag)) for name, flag in flags.items()}
    return json.dumps({"module": engine.parser_module, "values": values})


@pytest.fixture(scope="module")
def engine_python(deployment: Deployment) -> str:
    """The engine's Python on lab1, which is deployed to unless an earlier test did it."""
    find = "ls /opt/bringup/engines/vllm-0.32.0-cpu-*/bin/python 2>/dev/null | head -n 1"
    if not deployment.ssh(find, check=False).strip():
        deployment.deploy()
    return deployment.ssh(find).strip()


@pytest.mark.parametrize("part", ["flags", "settings"])
def test_real_parser_takes_what_the_catalog_says(deployment: Deployment, engine_python: str, part: str) -> None:
    engine = load_catalog().engine("vllm-0.32.0-cpu", "cpu")
    flags = engine.flags if part == "flags" else engine.settings
    command = f"cd /tmp && VLLM_CACHE_ROOT=/tmp/vllm {engine_python} -c {shlex.quote(_PARSE)} "
    answer = deployment.ssh(command + shlex.quote(parser_request(engine, flags)))
    result = json.loads(next(line for line in answer.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT "))
    assert result["refused"] == []
    assert set(result["defaults"]) == set(flags)
    if part == "flags":
        assert result["defaults"] == {name: flag.default for name, flag in engine.flags.items()}

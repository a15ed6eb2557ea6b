"""Compare an engine of the catalog with the sources of its vLLM: `tools/check_engine_flags.py WHEEL_OR_FOLDER ENGINE`.

Nothing of vLLM is imported: its modules are read as syntax trees, so neither CUDA nor torch is needed. Checked are every flag (that
it exists, its type, choices, constant default and range) and the attention backends that the rules name. Ends with 1 where
something differs, each difference on a line of its own.
"""

import argparse
import ast
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bringup.catalog import load_catalog
from bringup.catalog.entries import Engine, EngineFlag
from bringup.errors import BringupError

_UNKNOWN = object()
"""A value that only running vLLM could tell."""
_WHOLE = {"int", "human_readable_int", "human_readable_int_or_auto"}
_ARG_UTILS = "vllm/engine/arg_utils.py"
_FRONTEND = ("BaseFrontendArgs", "FrontendArgs")
"""Classes whose every field is an option (`add_cli_args` in the module that holds `make_arg_parser`)."""


@dataclass(frozen=True)
class Option:
    """An option as the sources have it."""

    type: str
    choices: tuple[Any, ...] = ()
    default: Any = _UNKNOWN
    least: Any = _UNKNOWN
    most: Any = _UNKNOWN


@dataclass
class Sources:
    """Definitions of the modules that options come from, by name."""

    literals: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    enums: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)


def reader(path: Path) -> tuple[list[str], Callable[[str], str]]:
    """Return the names of the files in a wheel or folder that holds `vllm/`, and what reads one of them."""
    if path.is_file():
        wheel = zipfile.ZipFile(path)
        return wheel.namelist(), lambda name: wheel.read(name).decode()
    root = path.parent if path.name == "vllm" else path
    names = [str(file.relative_to(root)) for file in (root / "vllm").rglob("*.py")]
    return names, lambda name: (root / name).read_text(encoding="utf-8")


def _constant(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else _UNKNOWN
    except ValueError:
        return _UNKNOWN


def _called(node: ast.expr | None) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _literal(node: ast.expr | None) -> tuple[Any, ...] | None:
    """Values of ``Literal[...]``."""
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value).split(".")[-1] != "Literal":
        return None
    values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return tuple(_constant(value) for value in values)


def collect(texts: Mapping[str, str]) -> Sources:
    """Read the literals, enumerations and classes of modules."""
    found = Sources()
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                values = _literal(node.value)
                if isinstance(target, ast.Name) and values is not None:
                    found.literals[target.id] = values
            elif isinstance(node, ast.ClassDef):
                found.classes[node.name] = node
                if any("Enum" in ast.unparse(base) for base in node.bases):
                    found.enums[node.name] = {
                        item.targets[0].id: _constant(item.value)
                        for item in node.body
                        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
                    }
    return found


def _names(annotation: ast.expr) -> list[ast.expr]:
    """Members of a union."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_names(annotation.left), *_names(annotation.right)]
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Optional", "Annotated"):
        return _names(annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice)
    return [annotation]


def _type(annotation: ast.expr, sources: Sources) -> tuple[str, tuple[Any, ...]]:
    """Classify an annotation as vLLM's `get_kwargs` does, and list its choices."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    kinds = set()
    for member in _names(annotation):
        name = ast.unparse(member)
        values = _literal(member) or sources.literals.get(name)
        if values is not None:
            return ("int" if all(isinstance(value, int) for value in values) else "choice"), values
        if name in sources.enums:
            members = sources.enums[name]
            whole = all(isinstance(value, int) for value in members.values())
            return ("int", tuple(members.values())) if whole else ("choice", tuple(members))
        kinds.add(name.split("[")[0])
    for kind, ours in (("bool", "bool"), ("list", "strings"), ("int", "int"), ("float", "float"), ("dict", "json")):
        if kind in kinds:
            return ours, ()
    # a dataclass comes as JSON; a name that is known to the type checker alone (``str | LoadFormats``) is text
    return ("json" if kinds & set(sources.classes) or "str" not in kinds else "str"), ()


def _field(definition: ast.AnnAssign, sources: Sources) -> Option:
    kind, choices = _type(definition.annotation, sources)
    value = definition.value
    if isinstance(value, ast.Call) and _called(value) in ("Field", "field"):
        said = {keyword.arg: _constant(keyword.value) for keyword in value.keywords}
        return Option(
            kind,
            choices,
            default=said.get("default", _constant(value.args[0]) if value.args else _UNKNOWN),
            least=said.get("ge", _UNKNOWN),
            most=said.get("le", _UNKNOWN),
        )
    default = _constant(value)
    if isinstance(value, ast.Attribute):
        default = sources.enums.get(ast.unparse(value.value), {}).get(value.attr, _UNKNOWN)
    return Option(kind, choices, default=default)


def _class_fields(name: str, sources: Sources) -> Iterator[tuple[str, Option]]:
    for item in sources.classes[name].body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, _field(item, sources)


def _explicit(call: ast.Call) -> Option:
    """An option whose type and default stand in the call itself."""
    said = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    action = ast.unparse(said["action"]) if "action" in said else ""
    if "Boolean" in action or "store_true" in action:
        return Option("bool", default=_constant(said["default"]) if "default" in said else None)
    kind = ast.unparse(said["type"]) if "type" in said else "str"
    kind = "int" if kind in _WHOLE else kind
    choices = _constant(said.get("choices"))
    return Option(
        "choice" if "choices" in said else kind if kind in ("int", "float", "str") else "json",
        tuple(choices) if choices is not _UNKNOWN else (),
        default=_constant(said["default"]) if "default" in said else None,
    )


def _from_class(call: ast.Call, kwargs_of: Mapping[str, str], sources: Sources) -> Option | None:
    """An option that ``**model_kwargs["dtype"]`` describes, be it with another default; None where it is none of those."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            continue
        overridden: dict[Any, Any] = {}
        source = keyword.value
        if isinstance(source, ast.Dict):
            overridden = {
                _constant(key): _constant(value) for key, value in zip(source.keys, source.values, strict=True) if key is not None
            }
            source = next(value for key, value in zip(source.keys, source.values, strict=True) if key is None)
        if isinstance(source, ast.Subscript) and isinstance(source.value, ast.Name) and source.value.id in kwargs_of:
            name = str(_constant(source.slice))
            option = dict(_class_fields(kwargs_of[source.value.id], sources))[name]
            if "default" in overridden:
                option = Option(option.type, option.choices, overridden["default"], option.least, option.most)
            return option
        if isinstance(source, ast.Name):
            # changed before it is used; what it takes is seen from its class only
            return Option("?")
    return None


def options(arg_utils: str, cli_args: str, sources: Sources) -> dict[str, Option]:
    """List all options of `vllm serve`, without their leading dashes."""
    found: dict[str, Option] = {}
    for text in (arg_utils, cli_args):
        tree = ast.parse(text)
        kwargs_of = {
            node.targets[0].id: ast.unparse(node.value.args[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
            and _called(node.value) == "get_kwargs"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                name = _constant(node.args[0]) if node.args else _UNKNOWN
                if isinstance(name, str) and name.startswith("--"):
                    found[name[2:]] = _from_class(node, kwargs_of, sources) or _explicit(node)
    frontend = collect({"": cli_args})
    sources.classes |= frontend.classes
    for name in _FRONTEND:
        found |= {field_name.replace("_", "-"): option for field_name, option in _class_fields(name, sources)}
    return found


def differences(flag: EngineFlag, option: Option, some_choices: bool) -> Iterator[str]:
    """Say in which ways the catalog's flag is not the source's option."""
    if option.type == "?":
        yield "cannot be read from the sources"
        return
    if flag.type != option.type:
        yield f"is a {option.type}, not a {flag.type}"
    ours, theirs = set(flag.choices), set(option.choices)
    if not (ours <= theirs if some_choices else ours == theirs):
        yield f"choices differ: {sorted(map(str, ours ^ theirs if not some_choices else ours - theirs))}"
    if option.default is not _UNKNOWN and not isinstance(option.default, list | dict | tuple) and flag.default != option.default:
        yield f"default is {option.default!r}, not {flag.default!r}"
    for word, mine, its in (("least", flag.least, option.least), ("most", flag.most, option.most)):
        if mine is not None and mine != its and its is not _UNKNOWN:
            yield f"{word} is {its}, not {mine:g}"
        if mine is not None and its is _UNKNOWN:
            yield f"{word} is nothing that the source says"


def check(engine: Engine, names: list[str], read: Callable[[str], str]) -> list[str]:
    """List all differences between an engine of the catalog and its sources."""
    wanted = [name for name in names if name.startswith("vllm/config/") and name.endswith(".py")]
    wanted += ["vllm/model_executor/layers/quantization/__init__.py", "vllm/v1/attention/backends/registry.py"]
    sources = collect({name: read(name) for name in wanted})
    known = options(read(_ARG_UTILS), read(f"{engine.parser_module.replace('.', '/')}.py"), sources)
    problems = []
    for name, flag in engine.flags.items():
        if name not in known:
            problems.append(f"--{name}: there is no such option")
        else:
            # of the backends, the catalog keeps those for dense models on the engine's device
            problems += [f"--{name}: {text}" for text in differences(flag, known[name], name == "attention-backend")]
    backends = set(sources.enums["AttentionBackendEnum"])
    problems += [f"attention_backends: there is no {b.name}" for b in engine.attention_backends if b.name not in backends]
    return problems


def main() -> int:
    """Check one engine; 0 where it is as its sources say, 1 where not, 2 where the check cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, metavar="WHEEL_OR_FOLDER", help="a wheel of vLLM, or a folder that holds vllm/")
    parser.add_argument("engine", metavar="ENGINE", help="a name of bringup/catalog/engines.yaml")
    arguments = parser.parse_args()
    try:
        (engine,) = [engine for engine in load_catalog().engines if engine.name == arguments.engine]
        problems = check(engine, *reader(arguments.sources))
    except (OSError, KeyError, SyntaxError, ValueError, zipfile.BadZipFile, BringupError) as error:
        print(f"cannot check {arguments.engine} against {arguments.sources}: {error!r}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"{engine.name}: {problem}")
    print(f"{engine.name}: {len(engine.flags)} flags, {len(problems)} differences")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

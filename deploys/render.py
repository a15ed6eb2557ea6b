"""Renders templates/*.j2 from the plan alone."""

import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bringup.onhost.content import served_files
from bringup.plan import Plan

_TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def render(template: str, plan: Plan, **parts: object) -> str:
    """Fill one template; a value that the plan does not have is an error. `parts` of the plan are given other names."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 (systemd units and YAML, not HTML)
    )
    why = {decision.key: decision for decision in plan.decisions}
    return environment.get_template(template).render(plan=plan, why=why, **parts)


def templates_checksum(in_container: bool, manager: str) -> str:
    """What names the templates of a release: another template makes another release, so that there is a way back."""
    names = [f"{name}.j2" for name in served_files(in_container, manager)] + sorted(
        path.name for path in _TEMPLATES.glob("vllm-part-*.j2")
    )
    return sha256("".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in names))[:12]


def sha256(text: str) -> str:
    """Checksum of a text, as pyinfra's Sha256File fact gives it for the file."""
    return hashlib.sha256(text.encode()).hexdigest()

"""The report as one HTML file that needs nothing else: no script, no request, no font; styles and pictures stand in it."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bringup import __version__
from bringup.report.fleet import fleet_view
from bringup.report.host import host_view
from bringup.smoke.definitions import DEFINITIONS
from bringup.smoke.model import SmokeReport


def host_page(report: SmokeReport, record: Path | None = None) -> str:
    """Return the page of one host; `record` is the file that the record lies in, as commands on the page name it."""
    view = host_view(report, record)
    return _render("host_page.html.j2", title=f"{view.symbol} {report.outcome} · {report.host}", host=view)


def fleet_page(reports: Sequence[SmokeReport], records: Sequence[Path | None] | None = None) -> str:
    """Return the page of several records: a table of the hosts, and each host's own report below it."""
    view = fleet_view(reports, [None] * len(reports) if records is None else records)
    return _render("fleet_page.html.j2", title=f"{view.headline}", fleet=view)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(version=__version__, definitions=DEFINITIONS, **values)


@cache
def _environment() -> Environment:
    # autoescape: host names, errors and answers of a model are not ours
    environment = Environment(
        loader=PackageLoader("bringup.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source, _, _ = PackageLoader("bringup.report").get_source(environment, "page.css")
    environment.globals["css"] = Markup(source)  # noqa: S704 (our own file)
    return environment


def schema() -> str:
    """Return the JSON Schema (2020-12) of a record."""
    document = SmokeReport.model_json_schema()
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bringup smoke record", **document}
    return json.dumps(document, indent=2, ensure_ascii=False)

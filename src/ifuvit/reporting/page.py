"""The page: one HTML file that needs no other."""

from typing import Any

from ifuvit.artifacts import now, package_version
from ifuvit.reporting import tables
from ifuvit.reporting.results import Estimate, Results


def render(results: Results, *, title: str) -> str:
    """The report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ifuvit.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["plain"] = tables.plain
    environment.tests["estimate"] = lambda value: isinstance(value, Estimate)
    context: dict[str, Any] = {
        "title": title,
        "tables": tables.tables(results),
        "made": now(),
        "version": package_version(),
    }
    return environment.get_template("report.html.j2").render(context)

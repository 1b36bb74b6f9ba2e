"""The templates of the pages."""

from pathlib import Path
from typing import TYPE_CHECKING

from ifuvit.reporting.tables import plain
from ifuvit.results import Estimate

if TYPE_CHECKING:
    import jinja2


def environment() -> "jinja2.Environment":
    """The templates, with what `parts.html.j2` calls. No source has a number: set `references` where they have."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ifuvit.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.globals |= {"plain": plain, "references": {}}
    made.tests["estimate"] = lambda value: isinstance(value, Estimate)
    made.tests["path"] = lambda value: isinstance(value, Path)
    return made

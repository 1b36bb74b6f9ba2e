"""`ifuvit report`: one page of all results in some directories, and its tables as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ifuvit.utils.command_line import parse
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make one self-contained HTML page of all results in and below some directories: results of evaluate, experiment,
    study and bench, training logs (metrics.jsonl), costs.json, and images of generate. Sections without results
    are left out. The tables are also written as CSV and Markdown. Nothing is computed.

    Example:
        ifuvit report results --out report.html
    """

    directories: Positional[Annotated[tuple[Path, ...], arg(metavar="[DIR ...]")]] = ()
    """Where the results are; subdirectories are searched too. Of several models the first one found opens the page."""
    out: Path = Path("report.html")
    """HTML file to write. The tables go into a directory next to it: report-tables/ for report.html."""
    title: str = "Intermediate fusion, measured"
    """Heading of the page."""

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a directory; give the name of an HTML file")
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--out {self.out}: give the name of an HTML file, as report.html")


def run(config: ReportConfig) -> Path:
    """Write the page and its tables; return the page.

    Raises:
        InputError: no directories, one is missing, no results in them, or a result that is broken.
    """
    from ifuvit.reporting.page import write

    if not config.directories:
        raise InputError("no directories; say where the results are, as in `ifuvit report results --out report.html`")
    return write(config.directories, config.out, title=config.title)


CONFIG = ReportConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    out = run(parse(CONFIG, arguments, prog="ifuvit report"))
    size = out.stat().st_size / 1e6
    tables = out.with_name(f"{out.stem}-tables")
    print(f"{out}: {size:.1f} MB, open it in a browser; its tables are in {tables}")
    return {"page": out, "tables": tables}

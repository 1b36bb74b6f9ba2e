"""`ifuvit analyze`."""

from typing import Any

from ifuvit.analysis.config import ACTIONS
from ifuvit.analysis.run import run
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="action",
    about="See why a model does what it does: where it looks, of what rank its attention is, where text matters, and what its "
    "blocks know. One page, raw arrays, and what the numbers say about the paper's section 4.6.",
    configs=ACTIONS,
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit analyze")
    out, analysis = run(config)
    from ifuvit.reporting.analysis_page import write_page

    write_page(out)
    for one in analysis.findings:
        print(f"{one.verdict}: {one.claim} ({one.model}) {one.text}")
    print(f"{out / 'index.html'}: written; the numbers are {out / 'analysis.json'}")
    return {"out": out, "page": out / "index.html", "result": out / "analysis.json"}

"""`ifuvit experiment`."""

from typing import Any

from ifuvit import results
from ifuvit.experiments.config import ExperimentConfig
from ifuvit.experiments.outcome import summary
from ifuvit.experiments.run import run
from ifuvit.utils.command_line import parse
from ifuvit.utils.distributed import Processes

CONFIG = ExperimentConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit experiment")
    out = run(config)
    if config.dry_run:
        return {}
    if Processes.init()[0].first:
        print(summary(results.from_file(out / "experiment.json", results.ExperimentResult)))
        print(f"{out / 'experiment.json'}: written; `ifuvit report {out} --out report.html` shows it")
    return {"out": out, "result": out / "experiment.json"}

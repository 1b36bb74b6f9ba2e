"""`ifuvit evaluate`."""

from typing import Any

from ifuvit.evaluation.config import default_config
from ifuvit.utils.command_line import parse

CONFIG = default_config("quick")


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit evaluate")
    if config.protocol != "quick":  # whose sampling settings are the defaults then
        config = parse(default_config(config.protocol), arguments, prog="ifuvit evaluate")
    config.check_complete()
    from ifuvit import results
    from ifuvit.evaluation.run import evaluate, write_statistics
    from ifuvit.evaluation.scales import evaluate_scales
    from ifuvit.evaluation.tables import evaluation_table
    from ifuvit.utils.distributed import Processes

    written: list[str] = []
    told: dict[str, Any] = {}
    if config.write_statistics is not None:
        told["statistics"] = write_statistics(config)
        written.append(f"{told['statistics']}: written")
    if config.several:
        out = evaluate_scales(config)
        told["result"] = out / "sweep.json"
        written.append(f"{out / 'sweep.json'}: {len(config.points())} results")
    elif config.targets:
        out = evaluate(config)
        result = results.from_file(out, results.Evaluation)
        told |= {"result": out, "metrics": {one.name: one.value for one in result.metrics}}
        written += [evaluation_table(result), f"{out}: written"]
    if Processes.init()[0].first:
        print("\n".join(written))
    return told

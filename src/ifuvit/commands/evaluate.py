"""`ifuvit evaluate`."""

from typing import Any

from ifuvit.evaluation.config import EvaluateConfig, default_config
from ifuvit.utils.command_line import parse
from ifuvit.utils.files import read_json


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a result as text."""
    protocol, target = result["protocol"], result["target"]
    sampling = protocol["sampling"]
    lines = [
        f"{target['name']} under protocol {protocol['name']}: {protocol['num_images']:,} images, {sampling['solver']}, "
        f"{sampling['steps']} steps, w = {sampling['guidance_scale']:g}"
    ]
    for name, number in result["metrics"].items():
        line = f"  {name:<36} {number['value']:>8.4g}"
        if number.get("interval"):
            line += " [{:.4g}, {:.4g}]".format(*number["interval"])
        if beside := number.get("floor") or number.get("real"):
            line += f"   ({beside['how']}: {beside['value']:.4g})"
        lines.append(line)
    held_out = result["held_out"] or {}
    for title, scores, names in (
        ("the paper's prompts", result["counts"], ("right", "match_ratio", "average_error")),
        ("all kinds", result["all_kinds"], ("right", "match_ratio", "average_error")),
        ("relations", result["relations"], ("both_kinds", "right")),
        ("held-out counts", held_out.get("counts"), ("right", "average_error")),
        ("held-out relations", held_out.get("relations"), ("both_kinds", "right")),
    ):
        for name in names:
            if scores is None or name not in scores["overall"]:
                continue  # not asked for, or not of this kind of counter
            number = scores["overall"][name]
            low, high = number["interval"]
            line = f"{title}: {name.replace('_', ' ')}"
            lines.append(f"  {line:<36} {number['value']:>8.3f} [{low:.3f}, {high:.3f}]")
    if result["costs"]:
        told = {
            "parameters": "parameters",
            "images_per_second": "images a second",
            "peak_memory_gib": "peak memory, GiB",
        }
        for name, title in told.items():
            if result["costs"].get(name) is not None:
                lines.append(f"  {title:<36} {result['costs'][name]:>8,}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(EvaluateConfig, arguments, prog="ifuvit evaluate", default=default_config("quick"))
    if config.protocol != "quick":  # whose sampling settings are the defaults then
        config = parse(EvaluateConfig, arguments, prog="ifuvit evaluate", default=default_config(config.protocol))
    from ifuvit.evaluation.run import run

    out = run(config)
    from ifuvit.utils.distributed import Processes

    if Processes.init()[0].first:
        print(result_table(read_json(out)))
        print(f"{out}: written")

"""`ifuvit bench`."""

from typing import Any

from ifuvit.benchmarks.run import ACTIONS, run
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.files import read_json


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a result as text."""
    from ifuvit.benchmarks.results import table

    hardware = result["hardware"]
    lines = [f"{hardware['name']} ({hardware['device']}), {hardware['threads']} threads, torch {hardware['torch']}"]
    for title, measured in result["results"].items():
        if peak := measured["peak"]:
            title += f"; peak {peak['flops_per_second'] / 1e9:,.4g} GFLOP/s ({peak['of']})"
        lines += ["", title, *table(measured["rows"])]
        for name, growth in measured.get("growth", {}).get("settings", {}).items():
            if exponent := growth["exponent"]:
                low, high = exponent["interval"] or exponent["quartiles"]
                lines.append(f"{name}: seconds ~ FLOPs ^ {exponent['value']:.2f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)


_HELP = """usage: ifuvit bench ACTION [ARGUMENTS]

Time this package on this machine. What is compared takes turns in rounds, on the same tensors, in one run.

actions:
  train      --settings PRESETS --out RESULT.json   training steps
  sample     --settings PRESETS --out RESULT.json   steps of guided sampling
  generate   --out RESULT.json                      whole images, with few and many steps
  prepare    --out RESULT.json                      encoding of images and captions, and training's loader
  features   --out RESULT.json                      feature extraction for distances
  growth     --out RESULT.json                      steps by image tokens, text tokens and depth, with a plot

--against CHECKOUT lets the official code of U-ViT take part in train, sample and generate.

`ifuvit bench ACTION --help` tells an action's arguments."""


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(ACTIONS, arguments, command="bench", text=_HELP)
    if config is None:
        return
    written = run(config)
    print(result_table(read_json(written)))
    print(f"\n{written}: written")

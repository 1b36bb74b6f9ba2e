"""`ifuvit bench`."""

from ifuvit.benchmarks.config import ACTIONS, BenchScalingConfig
from ifuvit.utils.command_line import parse_action

_HELP = """usage: ifuvit bench ACTION [ARGUMENTS]

Time this package on this machine. All cases of a benchmark run in interleaved rounds, on the same tensors, in one process.

actions:
  train      --settings PRESETS --out RESULT.json   training steps
  sample     --settings PRESETS --out RESULT.json   steps of guided sampling
  generate   --out RESULT.json                      whole images, with few and many steps
  scaling    --out RESULT.json                      steps by image tokens, text tokens and depth, with a plot

--against CHECKOUT times the official code of U-ViT too, in train, sample and generate.

`ifuvit bench ACTION --help` lists the arguments of an action."""


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(ACTIONS, arguments, command="bench", text=_HELP)
    if config is None:
        return
    from ifuvit.benchmarks.run import result_table, run

    result = run(config)
    print(result_table(result))
    print(f"\n{config.out}: written")
    if isinstance(config, BenchScalingConfig):
        from ifuvit.reporting.plots import as_file
        from ifuvit.reporting.speed_section import plots_of
        from ifuvit.utils.files import write_text

        write_text(config.out.with_suffix(".svg"), as_file(*plots_of(result)))

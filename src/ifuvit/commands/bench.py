"""`ifuvit bench`."""

from ifuvit.benchmarks.config import ACTIONS, BenchScalingConfig
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="action",
    about="Measure the speed of this package on this machine. All cases of a benchmark run in interleaved rounds, on the same "
    "tensors, in one process. --against CHECKOUT measures the official code of U-ViT too.",
    configs=ACTIONS,
)


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit bench")
    from ifuvit.benchmarks.run import result_table, run

    result = run(config)
    print(result_table(result))
    print(f"\n{config.out}: written")
    if isinstance(config, BenchScalingConfig):
        from ifuvit.reporting.plots import as_file
        from ifuvit.reporting.speed_section import plots_of
        from ifuvit.utils.files import write_text

        write_text(config.out.with_suffix(".svg"), as_file(*plots_of(result)))

"""`ifuvit bench`."""

from typing import Any

from ifuvit.benchmarks.config import ACTIONS, BenchQualityConfig, BenchScalingConfig
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="action",
    about="Measure the speed of this package on this machine, and how fast runs learn. All cases of a benchmark run in interleaved rounds, on the same "
    "tensors, in one process. --against CHECKOUT measures the official code of U-ViT too.",
    configs=ACTIONS,
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit bench")
    if isinstance(config, BenchQualityConfig):
        _quality(config)
        return {"result": config.out}
    from ifuvit.benchmarks.run import result_table, run

    result = run(config)
    print(result_table(result))
    print(f"\n{config.out}: written")
    if isinstance(config, BenchScalingConfig):
        from ifuvit.reporting.plots import as_file
        from ifuvit.reporting.speed_section import plots_of
        from ifuvit.utils.files import write_text

        write_text(config.out.with_suffix(".svg"), as_file(*plots_of(result)))
    return {"result": config.out}


def _quality(config: BenchQualityConfig) -> None:
    from ifuvit.benchmarks.quality import bench_quality, quality_table
    from ifuvit.reporting.plots import as_file
    from ifuvit.reporting.quality_section import plots_of
    from ifuvit.utils.files import write_text

    result = bench_quality(config)
    write_text(config.out.with_suffix(".svg"), as_file(*plots_of(result)))
    print(quality_table(result))
    print(f"\n{config.out}: written")

"""`ifuvit reference-stats`."""

import os

from ifuvit.evaluation.reference_stats import ReferenceStatsConfig, run
from ifuvit.utils.command_line import parse


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(ReferenceStatsConfig, arguments, prog="ifuvit reference-stats")
    written = run(config)
    if int(os.environ.get("RANK", "0")) == 0:
        from ifuvit.metrics.distances.frechet import FeatureStatistics

        statistics = FeatureStatistics.load(written)
        name = statistics.facts["network"]["name"]
        print(f"{written}: {statistics.count:,} images, {statistics.width} dimensions of {name}")

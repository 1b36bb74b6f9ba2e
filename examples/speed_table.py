"""The table of speed, a column for each directory of results: python speed_table.py DIR [DIR ...]

Rows that a directory has no result of are marked "not measured". examples/gpu_table.sh makes such directories."""

import sys
from pathlib import Path

from ifuvit.results import Benchmark, Speedup, TimedCase, from_file


def read(directory: Path, name: str) -> Benchmark | None:
    file = directory / name
    return from_file(file, Benchmark) if file.is_file() else None


def rows_of(result: Benchmark | None, precision: str) -> dict[str, TimedCase]:
    """The rows of one precision; their names without the prefix of small presets."""
    rows = result.comparisons[precision].rows if result and precision in result.comparisons else ()
    return {row.name.removeprefix("openmoji-"): row for row in rows}


def faster(speedup: Speedup) -> str:
    """How many times as fast, with the interval, and as what if not as U-ViT's code."""
    low, high = speedup.interval or speedup.quartiles
    times = f"{speedup.value:.2f} [{low:.2f}, {high:.2f}]"
    return times if speedup.over == "U-ViT" else f"{times} (over {speedup.over})"


def cells(directory: Path) -> dict[str, str]:
    """The results of a directory, by row of the table."""
    found = {}
    for file, compiled in (("train.json", ""), ("train-compiled.json", ", compiled")):
        result = read(directory, file)
        for precision in ("bf16", "fp32"):
            for name, row in rows_of(result, precision).items():
                what = f"{name}, {precision}{compiled}"
                if row.speedup:
                    found[f"training step, {what}, times as fast as U-ViT's"] = faster(row.speedup)
                share = f"{row.share_of_peak:.1%}, {row.items_per_second:.4g} images/s"
                found[f"training, {what}: share of the matrix-product peak"] = share
                if row.peak_memory:
                    found[f"training, {what}: memory, GiB"] = f"{row.peak_memory / 2**30:.1f}"
    for precision in ("bf16", "fp32"):
        for name, row in rows_of(read(directory, "sample.json"), precision).items():
            setting, _, way = name.partition(", ")
            if row.speedup and way == "shared":
                found[f"guided sampling step, {setting}, {precision}, times as fast as U-ViT's"] = faster(row.speedup)
        for name, row in rows_of(read(directory, "generate.json"), precision).items():
            speed = f"{row.items_per_second:,.4g}" + (f"; {faster(row.speedup)}" if row.speedup else "")
            found[f"generate, {precision}: {name}, {row.unit}/s"] = speed
    scaling = read(directory, "scaling.json")
    for title, comparison in scaling.comparisons.items() if scaling else ():
        for name, series in comparison.scaling.settings.items() if comparison.scaling else ():
            if series.exponent:
                found[f"{title}, {name}: seconds ~ FLOPs to the power of"] = f"{series.exponent.value:.2f}"
    return found


# Rows of the table even where nothing was measured.
EXPECTED = [
    *(f"training step, {name}, bf16, times as fast as U-ViT's" for name in ("concat-early", "cross-intermediate")),
    "guided sampling step, cross-intermediate, bf16, times as fast as U-ViT's",
    *(f"training, {name}, bf16: share of the matrix-product peak" for name in ("concat-early", "cross-intermediate")),
]


def main() -> None:
    directories = [Path(argument) for argument in sys.argv[1:]]
    if not directories:
        sys.exit(__doc__)
    columns = [cells(directory) for directory in directories]
    rows = list(dict.fromkeys([*EXPECTED, *(row for column in columns for row in column)]))
    print(f"| | {' | '.join(directory.name for directory in directories)} |")
    print("|---" * (1 + len(columns)) + "|")
    for row in rows:
        print(f"| {row} | {' | '.join(column.get(row, 'not measured') for column in columns)} |")


if __name__ == "__main__":
    main()

"""The table of speed, a column for each directory of results: python speed_table.py DIR [DIR ...]

What a directory has no result of is marked "not measured". examples/gpu_table.sh makes such directories."""

import json
import sys
from pathlib import Path
from typing import Any


def read(directory: Path, name: str) -> dict[str, Any]:
    file = directory / name
    return json.loads(file.read_text()) if file.is_file() else {}


def contest(result: dict[str, Any], precision: str) -> dict[str, dict[str, Any]]:
    """The rows of one precision; their names without the prefix of small presets."""
    rows = result.get("results", {}).get(precision, {}).get("rows", [])
    return {row["name"].removeprefix("openmoji-"): row for row in rows}


def faster(row: dict[str, Any]) -> str:
    """How many times as fast, with the interval, and as what if not as U-ViT's code."""
    speedup = row["speedup"]
    interval = speedup["interval"] or speedup["quartiles"]
    times = f"{speedup['value']:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
    return times if speedup["over"] == "U-ViT" else f"{times} (over {speedup['over']})"


def cells(directory: Path) -> dict[str, str]:
    """What the results of a directory tell, by row of the table."""
    found = {}
    train, sample = read(directory, "train.json"), read(directory, "sample.json")
    for precision in ("bf16", "fp32"):
        for name, row in contest(train, precision).items():
            if row["speedup"]:
                found[f"training step, {name}, {precision}, times as fast as U-ViT's"] = faster(row)
        for name, row in contest(sample, precision).items():
            if row["speedup"] and name.endswith("shared"):
                found[f"guided sampling step, {name.split(',')[0]}, {precision}, times as fast as U-ViT's"] = faster(
                    row
                )
    for precision in ("bf16", "fp32"):
        for name, row in contest(train, precision).items():
            if row["share_of_peak"] and name != "U-ViT":
                told = f"{row['share_of_peak']:.1%}, {row['items_per_second']:.4g} images/s"
                found[f"training, {name}, {precision}: share of the matrix-product peak"] = told
            if row["peak_memory"] and name != "U-ViT":
                found[f"training, {name}, {precision}: memory, GiB"] = f"{row['peak_memory'] / 2**30:.1f}"
    for name in ("prepare.json", "features.json", "generate.json"):
        for title, measured in read(directory, name).get("results", {}).items():
            for row in measured["rows"]:
                told = f"{row['items_per_second']:,.4g}" + (f"; {faster(row)}" if row["speedup"] else "")
                found[f"{title}: {row['name']}, {row['unit']}/s"] = told
    for title, measured in read(directory, "growth.json").get("results", {}).items():
        for name, setting in measured["growth"]["settings"].items():
            if exponent := setting["exponent"]:
                found[f"{title}, {name}: seconds ~ FLOPs to the power of"] = f"{exponent['value']:.2f}"
    return found


# Rows that stand in the table even where nothing was measured.
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

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
    for file, compiled in (("train.json", ""), ("train-compiled.json", ", compiled")):
        result = read(directory, file)
        for precision in ("bf16", "fp32"):
            for name, row in contest(result, precision).items():
                what = f"{name}, {precision}{compiled}"
                if row["speedup"]:
                    found[f"training step, {what}, times as fast as U-ViT's"] = faster(row)
                told = f"{row['share_of_peak']:.1%}, {row['items_per_second']:.4g} images/s"
                found[f"training, {what}: share of the matrix-product peak"] = told
                if row["peak_memory"]:
                    found[f"training, {what}: memory, GiB"] = f"{row['peak_memory'] / 2**30:.1f}"
    for precision in ("bf16", "fp32"):
        for name, row in contest(read(directory, "sample.json"), precision).items():
            setting, _, way = name.partition(", ")
            if row["speedup"] and way == "shared":
                found[f"guided sampling step, {setting}, {precision}, times as fast as U-ViT's"] = faster(row)
    for file in ("generate.json", "prepare.json", "features.json"):
        for title, measured in read(directory, file).get("results", {}).items():
            for row in measured["rows"]:
                told = f"{row['items_per_second']:,.4g}" + (f"; {faster(row)}" if row["speedup"] else "")
                found[f"{file.removesuffix('.json')}, {title}: {row['name']}, {row['unit']}/s"] = told
    for title, measured in read(directory, "growth.json").get("results", {}).items():
        for name, setting in measured["growth"]["settings"].items():
            if setting["exponent"]:
                found[f"{title}, {name}: seconds ~ FLOPs to the power of"] = f"{setting['exponent']['value']:.2f}"
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

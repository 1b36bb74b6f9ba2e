"""examples/gpu_table.sh on a CPU, and the table it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import example_results
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def ran(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT)


def cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows}


def test_table_of_two_machines(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    done = ran(
        sys.executable, EXAMPLES / "speed_table.py", example_results.write_benches(tmp_path / "cpu"), tmp_path / "gpu"
    )
    assert done.returncode == 0, done.stderr
    rows = cells(done.stdout)
    assert rows[""] == ["cpu", "gpu"]
    assert rows["training step, cross-intermediate, bf16, times as fast as U-ViT's"] == [
        "1.60 [1.58, 1.62]",
        "not measured",
    ]
    assert rows["guided sampling step, cross-intermediate, bf16, times as fast as U-ViT's"] == ["not measured"] * 2
    assert rows["training steps by depth, cross-intermediate: seconds ~ FLOPs to the power of"][0] == "0.95"


@pytest.mark.parametrize("arguments", [["--bogus"], ["--against"]], ids=str)
def test_wrong_arguments_of_the_script(arguments: list[str]) -> None:
    done = ran("bash", EXAMPLES / "gpu_table.sh", *arguments)
    assert done.returncode != 0 and not done.stdout and len(done.stderr.splitlines()) <= 5


@pytest.mark.long
@pytest.mark.slow
def test_script_makes_every_result_and_goes_on(tmp_path: Path) -> None:
    command = ("bash", EXAMPLES / "gpu_table.sh", "--smoke", "--out", tmp_path)
    done = ran(*command)
    assert done.returncode == 0, done.stderr
    actions = {"train", "sample", "scaling", "generate"}
    for action in actions:
        result = json.loads((tmp_path / f"{action}.json").read_text())
        assert result["command"] == f"bench {action}" and result["config"]["rounds"] == 1
    table = cells((tmp_path / "table.md").read_text())
    assert "not measured" not in table["training, cross-intermediate, fp32: share of the matrix-product peak"]
    assert (tmp_path / "scaling.svg").is_file() and not list(tmp_path.glob("*.log"))

    before = (tmp_path / "train.json").stat().st_mtime_ns
    again = ran(*command)
    assert again.returncode == 0 and again.stdout.count("exists already") == len(actions)
    assert (tmp_path / "train.json").stat().st_mtime_ns == before

"""What is on the disk at a random moment of a training and a preparation is enough to go on: a thin slice of tools/power_cuts.py."""

import subprocess
import sys
from pathlib import Path

import power_cuts
import pytest

TOOL = Path(__file__).parents[1] / "tools" / "power_cuts.py"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_three_power_cuts_each() -> None:
    """In another process: its forks must find no threads."""
    if reason := power_cuts.why_not():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, str(TOOL), "--cuts", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as uninterrupted") == 6

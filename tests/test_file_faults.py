"""Kills and failing calls of the system at file-system events of whole commands: a thin slice of tools/file_faults.py."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "file_faults.py"


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="requires /proc and fork")
def test_a_hundred_faults() -> None:
    """In another process: its forks must find no threads."""
    done = subprocess.run([sys.executable, str(TOOL), "--points", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("points tried") == 8

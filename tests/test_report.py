"""`ifuvit report`: the verb."""

import json
from pathlib import Path

import pytest

from ifuvit.errors import InputError
from ifuvit.report import ReportConfig, run


def test_no_results(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"some": "thing"}))
    with pytest.raises(InputError, match="no results"):
        run(ReportConfig(directories=(tmp_path,), out=tmp_path / "report.html"))

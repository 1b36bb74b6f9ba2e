"""The contract of imports in pyproject.toml: it holds, and an import that runs upward breaks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lint(tmp_path):
    """Runs the contract on a copy of the package, at tmp_path/src/ifuvit, that the test may have changed."""
    shutil.copytree(ROOT / "src" / "ifuvit", tmp_path / "src" / "ifuvit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as main; main()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    return lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_the_contract_holds(lint):
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("utils/errors.py", "ifuvit.model.settings"),
        ("model/settings.py", "ifuvit.training.config"),
        ("training/config.py", "ifuvit.commands.train"),
        ("reporting/page.py", "ifuvit.experiments.run"),
        ("commands/train.py", "ifuvit.commands.generate"),
    ],
)
def test_an_import_that_runs_upward_breaks_it(lint, tmp_path, module, planted):
    with (tmp_path / "src" / "ifuvit" / module).open("a") as file:
        file.write(f"\n\ndef late():\n    import {planted}\n")
    done = lint()
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"ifuvit.{module[:-3].replace('/', '.')} -> {planted}" in done.stdout


def test_a_package_without_a_place_breaks_it(lint, tmp_path):
    (tmp_path / "src" / "ifuvit" / "stray.py").touch()
    done = lint()
    assert done.returncode == 1 and "stray" in done.stdout

"""Fixtures of several tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    """What a command line left."""

    status: int
    out: str
    err: str


@pytest.fixture
def ifuvit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`ifuvit ARGUMENTS` in this process. A fault of the program is raised."""
    from ifuvit.commands.main import main

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ifuvit", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            assert isinstance(stop.code, int | None)
            status = stop.code or 0
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def refusal(ifuvit: Callable[..., Ran]) -> Callable[..., str]:
    """The one line that `ifuvit ARGUMENTS` prints for invalid input."""

    def run(*arguments: object) -> str:
        ran = ifuvit(*arguments)
        assert ran.status == 2 and ran.out == "" and ran.err.startswith("ifuvit: ")
        assert ran.err.endswith("\n") and ran.err.count("\n") == 1
        return ran.err

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a small random model, for tests that leave it as it is."""
    from tiny_pipeline import write_tiny_pipeline

    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> str:
    """The tiny run, as `--model` takes it."""
    return str(tiny_run)

"""Two commands that write one place: the second says in one line who is at work; what a dead process left is taken over."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_faults import SCENARIOS, Scenario
from tiny_study import write_images

from ifuvit.evaluation import run as evaluation
from ifuvit.experiments import config, plan
from ifuvit.utils.files import lock


def _study(inputs: Path, out: Path) -> list[str]:
    models = [str(inputs / "a"), str(inputs / "b")]
    return [
        "study",
        "make",
        "preference",
        *models,
        f"--out={out / 'study'}",
        "--raters=2",
        "--raters-per-item=2",
        *NONE,
    ]


NONE = ["--practice=0", "--repeats=0", "--checks=0"]


def _write_study_images(inputs: Path) -> None:
    for seed, name in enumerate("ab"):
        write_images(inputs / name, seed=seed)


PLACES = {
    "train": "run/",
    "prepare": "data/",
    "scenes": "scenes/",
    "generate": "images/",
    "evaluate": "result.json",
    "sweep": "sweep/",
    "autoencoder": "run/",
    "study": "study",
}
"""What every command locks below its directory; with a slash at the end, from inside."""


@pytest.fixture(params=PLACES)
def command(request, tmp_path, monkeypatch) -> tuple[list[str], Path, bool]:
    """A command line, what it writes, and whether the lock lies in there."""
    for module in (config, plan):
        monkeypatch.setattr(module, "SCALES", module.SCALES)  # what the experiment replaces comes back
    monkeypatch.setattr(evaluation, "find_evaluator", evaluation.find_evaluator)
    scenario = {**SCENARIOS, "study": Scenario(_write_study_images, _study)}[request.param]
    (tmp_path / "inputs").mkdir()
    scenario.prepare(tmp_path / "inputs")
    scenario.replace()
    place = PLACES[request.param]
    return list(scenario.arguments(tmp_path / "inputs", tmp_path)), tmp_path / place, place.endswith("/")


def test_the_second_says_who_holds_it_and_a_dead_one_is_forgotten(
    command: tuple[list[str], Path, bool], ifuvit: Callable[..., Any]
) -> None:
    arguments, place, inside = command
    with lock(place, inside=inside):
        second = ifuvit(*arguments)
    assert second.status == 2 and second.out == ""
    told = second.err.splitlines()[-1]  # after what a command may have said of its inputs
    assert f"{place}: process {os.getpid()} on {socket.gethostname()} is writing there; wait for its end" in told
    assert not place.exists() or not any(place.iterdir())

    file = place / ".lock" if inside else place.with_name(f".{place.name}.lock")
    file.parent.mkdir(exist_ok=True)
    file.write_text("process 999999 on elsewhere")  # as a killed process leaves it: without the system's lock
    assert ifuvit(*arguments).status == 0
    assert place.exists() and not file.exists()

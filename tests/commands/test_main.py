"""The command line: exit statuses, one line for a mistake of the user, a traceback for a fault of ours."""

import errno
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from tiny_pipeline import write_tiny_pipeline

from ifuvit.commands import main as cli
from ifuvit.utils.errors import InputError

Capture = pytest.CaptureFixture[str]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`ifuvit ARGUMENTS` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["ifuvit", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], None]], None]:
    """Registers a function as the command "try"."""

    def register(main: Callable[[list[str]], None]) -> None:
        module = types.ModuleType("ifuvit_try")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ifuvit_try", module)
        monkeypatch.setitem(cli.COMMANDS, "try", ("ifuvit_try", "for tests"))

    return register


def one_line(capsys: Capture) -> str:
    """What went to stderr: exactly one line, no traceback; nothing went to stdout."""
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1
    assert err.startswith("ifuvit: ") and "Traceback" not in err
    return err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str]) -> None:
    assert run(monkeypatch, *arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for verb_name, (_, about) in cli.COMMANDS.items():
        assert verb_name in out and about in out
    assert max(map(len, out.splitlines())) <= 100


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, "--version") == 0
    assert len(capsys.readouterr().out.split()) == 1


@pytest.mark.parametrize("verb_name", cli.COMMANDS)
def test_help_of_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: Capture, verb_name: str) -> None:
    assert run(monkeypatch, verb_name, "--help") == 0
    out, err = capsys.readouterr()
    assert err == "" and f"ifuvit {verb_name}" in out


@pytest.mark.parametrize("source", ["coco", "folder", "dataset"])
def test_help_of_every_source(monkeypatch: pytest.MonkeyPatch, capsys: Capture, source: str) -> None:
    assert run(monkeypatch, "prepare", source, "--help") == 0
    assert "--autoencoder" in capsys.readouterr().out


def test_unknown_verb(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, "paint") == 2
    line = one_line(capsys)
    assert "'paint'" in line and all(name in line for name in cli.COMMANDS)


@pytest.mark.parametrize("verb_name", cli.COMMANDS)
def test_unknown_flag(monkeypatch: pytest.MonkeyPatch, capsys: Capture, verb_name: str) -> None:
    required = {
        "train": ["openmoji-cross-early", "--data", "a", "--out", "b"],
        "prepare": ["folder", "a", "--out", "b"],
        "scenes": ["--out", "a"],
        "convert": ["uvit", "a.pth", "b", "--heads", "8"],
        "evaluate": ["a", "--data", "b", "--out", "c"],
        "sweep": ["a", "--data", "b", "--out", "c"],
        "experiment": ["table1", "--out", "a"],
        "report": ["a", "--out", "b"],
        "reference-stats": ["--data", "a", "--network", "effnet-lite0", "--out", "b"],
        "make-standin": ["counter", "--scenes", "a", "--out", "b"],
    }
    arguments = required.get(verb_name, [])
    assert run(monkeypatch, verb_name, *arguments, "--no-such-flag") == 2
    assert "no-such-flag" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["costs", "--n-text", "many"], "many"),
        (["costs", "--preset", "cross-late"], "cross-late"),
        (["costs", "--preset", "cross-early", "--n-image", "7"], "n_image=7"),
        (["costs", "--n-image"], "--n-image"),
        (["train", "no-such-preset"], "no-such-preset"),
        (["prepare", "tape"], "tape"),
        (["scenes"], "--out"),
        (["scenes", "--out", "x", "--size", "big"], "big"),
    ],
    ids=" ".join,
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], shown: str) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert shown in one_line(capsys)


def test_mistakes_are_one_line_whatever_the_message(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    def main(arguments: list[str]) -> None:
        raise InputError("first\n  second")

    command(main)
    assert run(monkeypatch, "try") == 2
    assert one_line(capsys) == "ifuvit: first second\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "out/model.safetensors"),
        PermissionError(errno.EACCES, "Permission denied", "out/model.safetensors"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "out/model.safetensors"),
        FileExistsError(errno.EEXIST, "File exists", "out/model.safetensors"),
    ],
    ids=repr,
)
def test_disk_and_paths(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command, error: OSError) -> None:
    def main(arguments: list[str]) -> None:
        raise error

    command(main)
    assert run(monkeypatch, "try") == 2
    assert one_line(capsys).startswith(f"ifuvit: out/model.safetensors: {error.strerror}")


def test_a_full_disk_in_another_librarys_words(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    from safetensors import SafetensorError

    def main(arguments: list[str]) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    command(main)
    assert run(monkeypatch, "try") == 2
    assert "No space left on device" in one_line(capsys)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_for_true(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    def main(arguments: list[str]) -> None:
        Path("/dev/full").write_text("x")

    command(main)
    assert run(monkeypatch, "try") == 2
    assert "No space left on device" in one_line(capsys)


@pytest.mark.parametrize(
    "error", [AssertionError("invariant"), KeyError("x"), ValueError("y"), OSError(errno.EIO, "z")]
)
def test_internal_faults_are_not_hidden(monkeypatch: pytest.MonkeyPatch, command, error: Exception) -> None:
    def main(arguments: list[str]) -> None:
        raise error

    command(main)
    monkeypatch.setattr(sys, "argv", ["ifuvit", "try"])
    with pytest.raises(type(error)):
        cli.main()


def test_an_internal_fault_keeps_its_traceback() -> None:
    code = (
        "import sys, types; from ifuvit.commands import main as cli\n"
        "def main(arguments): raise ValueError('a fault of ours')\n"
        "module = types.ModuleType('broken'); module.main = main; sys.modules['broken'] = module\n"
        "cli.COMMANDS['broken'] = ('broken', ''); sys.argv = ['ifuvit', 'broken']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "ValueError: a fault of ours" in done.stderr


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_stopped_from_outside(monkeypatch: pytest.MonkeyPatch, command, error: BaseException, status: int) -> None:
    def main(arguments: list[str]) -> None:
        raise error

    command(main)
    assert run(monkeypatch, "try") == status


HEAVY = ("torch", "numpy", "scipy", "PIL", "diffusers", "transformers", "accelerate", "datasets", "matplotlib")


def loaded_by(*commands: list[str]) -> set[str]:
    """Which modules are imported by these commands, one after the other in one new process."""
    code = (
        "import sys, ifuvit, ifuvit.commands.main\n"
        f"for arguments in {commands!r}:\n"
        "    sys.argv = ['ifuvit', *arguments]\n"
        "    try: ifuvit.commands.main.main()\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_command_line_starts_with_nothing_heavy() -> None:
    assert not loaded_by(["--help"], ["--version"], ["generate", "--help"], ["bench", "--help"]) & set(HEAVY)


def test_drawing_loads_nothing_that_other_verbs_need(tmp_path: Path) -> None:
    model = str(write_tiny_pipeline(tmp_path / "model"))
    loaded = loaded_by(["generate", "a bus", "--model", model, "--out", str(tmp_path / "out"), "--steps", "2"])
    assert {"torch", "ifuvit.pipeline"} <= loaded
    others = ("matplotlib", "datasets", "pandas", "sklearn", "torchmetrics", "efficientnet_lite_pytorch", "fastapi")
    ours = (
        "train",
        "training",
        "metrics",
        "evaluate",
        "evaluation",
        "benchmarks",
        "reporting",
        "studies",
        "data.scenes",
    )
    assert not loaded & {*others, *(f"ifuvit.{name}" for name in ours)}
    # Of these libraries only what is asked for, not the whole: they make their parts known lazily.
    assert not loaded & {"diffusers.pipelines", "diffusers.pipelines.pipeline_utils", "transformers.pipelines"}


def test_help_of_every_verb_is_without_torch() -> None:
    light = {"numpy", "PIL"}
    assert not loaded_by(*([command, "--help"] for command in cli.COMMANDS)) & (set(HEAVY) - light)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_mistakes_are_one_line_in_any_locale(encoding: str) -> None:
    code = "import sys; from ifuvit.commands import main as cli; sys.argv = ['ifuvit', 'scenes', '--out', 'a', '--sise', '3']; cli.main()"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "ifuvit: Unrecognized options: --sise, 3; see `ifuvit scenes --help`\n"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """About these settings."""

    count: int = 3
    """How many."""
    kind: Literal["round", "square"] = "round"
    """Of which form."""
    fast: bool = False
    """Hurry."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"count={self.count}: must not be negative")


def test_parse(capsys: Capture) -> None:
    assert cli.parse(Settings, [], prog="ifuvit try") == Settings()
    parsed = cli.parse(Settings, ["--count", "5", "--kind", "square", "--fast"], prog="ifuvit try")
    assert parsed == Settings(count=5, kind="square", fast=True)
    assert cli.parse(Settings, ["--fast"], prog="ifuvit try", default=Settings(count=9)) == Settings(count=9, fast=True)
    with pytest.raises(SystemExit) as stop:
        cli.parse(Settings, ["--help"], prog="ifuvit try")
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "About these settings." in out and "How many." in out and "Of which form." in out


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--count", "-1"], "count=-1: must not be negative"),
        (["--count", "x"], "x"),
        (["--kind", "oval"], "oval"),
        (["--cuont", "3"], "--cuont"),
        (["stray"], "stray"),
        (["--count"], "--count"),
    ],
    ids=" ".join,
)
def test_parse_refuses(arguments: list[str], shown: str, capsys: Capture) -> None:
    with pytest.raises(InputError) as caught:
        cli.parse(Settings, arguments, prog="ifuvit try")
    message = str(caught.value)
    assert shown in message and "ifuvit try --help" in message
    assert "\n" not in message and not set("│╭╰─") & set(message)
    assert capsys.readouterr().err == ""

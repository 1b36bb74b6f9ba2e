"""The command line: exit statuses, one line for a mistake of the user, a traceback for a fault of ours."""

import errno
import importlib
import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_pipeline import write_tiny_pipeline

from ifuvit.commands import main as cli
from ifuvit.utils.command_line import Actions, Output, parse
from ifuvit.utils.errors import InputError

Capture = pytest.CaptureFixture[str]
NAMES = [name for commands in cli.COMMANDS.values() for name in commands]
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
        module = types.ModuleType("try")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ifuvit.commands.try", module)
        monkeypatch.setitem(cli.COMMANDS, "for tests", {"try": "is tried"})

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
    for title, commands in cli.COMMANDS.items():
        assert f"\n{title}:\n" in out
        for name, about in commands.items():
            assert f"  {name} " in out and about in out
    assert max(map(len, out.splitlines())) <= 100


def examples(config: object, text: str | None = None) -> Iterator[str]:
    """The example lines of a command's docstrings."""
    if isinstance(config, Actions):
        for name, chosen in config.configs.items():
            yield from examples(chosen, config.texts.get(name))
    else:
        text = inspect.cleandoc(text or config.__doc__ or "").partition("Example:")[2]
        assert "ifuvit " in text, config
        yield from (line for line in text.splitlines() if "ifuvit " in line)


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}").CONFIG
    for line in examples(config):
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("ifuvit", name)
        parse(config, arguments, prog=f"ifuvit {name}")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[list[str]]], list[list[str]]]:
    """What bash offers for the last words of command lines."""
    if shutil.which("bash") is None:
        pytest.skip("requires bash")
    directory = tmp_path_factory.mktemp("completion")
    command = [sys.executable, "-m", "ifuvit", "--tyro-print-completion", "bash"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (directory / "completion").write_text(done.stdout)
    code = """source completion
        complete() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tyro_ifuvit; echo "${COMPREPLY[*]}"; }
        """

    def offered(lines: list[list[str]]) -> list[list[str]]:
        asked = "\n".join(f"complete ifuvit {shlex.join(line)}" for line in lines)
        done = subprocess.run(["bash", "-c", code + asked], cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    return offered


@pytest.mark.long
@pytest.mark.slow
def test_completion_of_every_command(complete, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    lines = []
    for name in NAMES:
        config = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}").CONFIG
        words = list(config.configs) if isinstance(config, Actions) else []
        words = words[:1] if name == "train" else words  # all presets have the same options
        lines += [[name, word] for word in words] or [[name]]
    helped = []
    for line in lines:
        assert run(monkeypatch, *line, "--help") == 0
        helped.append(set(re.findall(r"^  (?:-h, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)))
    offered = complete([[*line, "--"] for line in lines])
    # What every command takes is no part of a configuration, so scripts of the shell do not complete it.
    everywhere = {name for name, _ in Output.OPTIONS}
    for line, options, words in zip(lines, (one - everywhere for one in helped), offered):
        assert options <= set(words), line
        assert line[0] == "train" or options == set(words)  # train has options of several objectives and optimizers
    assert [words[0] for words in complete(lines)] == [line[-1] for line in lines]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prepare coco --text-e", "--text-encoder"),
        ("generate --dtype b", "bfloat16"),
        ("train cross-early --objective ", "ddpm flow"),
        ("train cross-early --optimizer m", "muon"),
        ("train cross-early --logit-", "--logit-mean --logit-std"),
        ("train cross-early --muon-m", "--muon-momentum"),
        ("evaluate --initial-latents ", "data-mean noise"),
    ],
)
def test_completion_of_options_and_values(complete, line: str, words: str) -> None:
    assert complete([line.split(" ")]) == [words.split()]


def test_help_as_a_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for asked, same in (["help"], ["--help"]), (["help", "scenes"], ["scenes", "--help"]):
        printed = []
        for arguments in (asked, same):
            assert run(monkeypatch, *arguments) == 0
            printed.append(capsys.readouterr())
        assert printed[0] == printed[1] and printed[0].out
    assert run(monkeypatch, "help", "prepare", "coco") == 0
    assert "ifuvit prepare coco" in capsys.readouterr().out


def test_the_package_is_a_command_too() -> None:
    done = subprocess.run([sys.executable, "-m", "ifuvit", "--help"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == cli.usage()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, "--version") == 0
    assert len(capsys.readouterr().out.split()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str) -> None:
    assert run(monkeypatch, name, "--help") == 0
    out, err = capsys.readouterr()
    assert err == "" and f"ifuvit {name}" in out


@pytest.mark.parametrize("source", ["coco", "folder", "dataset"])
def test_help_of_every_source(monkeypatch: pytest.MonkeyPatch, capsys: Capture, source: str) -> None:
    assert run(monkeypatch, "prepare", source, "--help") == 0
    assert "--autoencoder" in capsys.readouterr().out


def test_unknown_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, "paint") == 2
    line = one_line(capsys)
    assert "'paint'" in line and all(known in line for known in NAMES)
    assert run(monkeypatch, "gnerate") == 2
    assert one_line(capsys) == "ifuvit: unknown command 'gnerate'; did you mean generate?\n"
    assert run(monkeypatch, "prepare", "cocoo") == 2
    assert one_line(capsys) == "ifuvit: unknown source 'cocoo'; did you mean coco?\n"


@pytest.mark.parametrize("name", NAMES)
def test_unknown_flag(monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str) -> None:
    required = {
        "train": ["openmoji-cross-early", "--data", "a", "--out", "b"],
        "prepare": ["folder", "a", "--out", "b"],
        "scenes": ["--out", "a"],
        "convert": ["uvit", "a.pth", "b", "--heads", "8"],
        "evaluate": ["a", "--data", "b", "--out", "c"],
        "sweep": ["a", "--data", "b", "--out", "c"],
        "experiment": ["table1", "--out", "a"],
        "report": ["a", "--out", "b"],
        "make-standin": ["counter", "--scenes", "a", "--out", "b"],
    }
    arguments = required.get(name, [])
    assert run(monkeypatch, name, *arguments, "--no-such-flag") == 2
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
        *(
            OSError(number, os.strerror(number), "out/model.safetensors")
            for number in (errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY)
        ),
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


def test_two_files_are_both_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    def main(arguments: list[str]) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")

    command(main)
    assert run(monkeypatch, "try") == 2
    assert one_line(capsys) == "ifuvit: a -> b: Invalid cross-device link; what was written before is kept\n"


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    import numpy as np
    import torch

    for allocate in (lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: torch.empty(2**62)):
        command(lambda arguments, allocate=allocate: allocate())
        assert run(monkeypatch, "try") == 2
        assert one_line(capsys).startswith("ifuvit: out of memory (")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_for_true(monkeypatch: pytest.MonkeyPatch, capsys: Capture, command) -> None:
    def main(arguments: list[str]) -> None:
        Path("/dev/full").write_text("x")

    command(main)
    assert run(monkeypatch, "try") == 2
    assert "No space left on device" in one_line(capsys)


@pytest.mark.parametrize(
    "error", [AssertionError("invariant"), KeyError("x"), ValueError("y"), OSError("z"), RuntimeError("size mismatch")]
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
        "module = types.ModuleType('broken'); module.main = main; sys.modules['ifuvit.commands.broken'] = module\n"
        "cli.COMMANDS['broken'] = {'broken': ''}; sys.argv = ['ifuvit', 'broken']; cli.main()"
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


def test_generating_loads_nothing_that_other_commands_need(tmp_path: Path) -> None:
    model = str(write_tiny_pipeline(tmp_path / "model"))
    loaded = loaded_by(["generate", "a bus", "--model", model, "--out", str(tmp_path / "out"), "--steps", "2"])
    assert {"torch", "ifuvit.pipeline"} <= loaded
    others = ("matplotlib", "datasets", "pandas", "sklearn", "torchmetrics", "efficientnet_lite_pytorch", "fastapi")
    ours = (
        "train",
        "training",
        "metrics",
        "evaluation.run",
        "evaluation.evaluators",
        "benchmarks",
        "reporting.page",
        "studies",
        "data.scenes",
    )
    assert not loaded & {*others, *(f"ifuvit.{name}" for name in ours)}
    # Of these libraries only what is asked for, not the whole: they make their parts known lazily.
    assert not loaded & {"diffusers.pipelines", "diffusers.pipelines.pipeline_utils", "transformers.pipelines"}


def test_help_of_every_command_is_without_torch() -> None:
    light = {"numpy", "PIL"}
    assert not loaded_by(*([name, "--help"] for name in NAMES)) & (set(HEAVY) - light)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_mistakes_are_one_line_in_any_locale(encoding: str) -> None:
    code = "import sys; from ifuvit.commands import main as cli; sys.argv = ['ifuvit', 'scenes', '--out', 'a', '--sise', '3']; cli.main()"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "ifuvit: unknown option --sise; did you mean --size? See `ifuvit scenes --help`\n"


@pytest.mark.parametrize(
    ("arguments", "loads"),
    [
        (["convert", "uvit", "no-such-file.pth", "no-such-directory", "--heads", "8"], True),
        (["convert", "--help"], False),
        (["report"], False),
    ],
)
def test_a_line_on_the_terminal_before_what_takes_seconds(arguments: list[str], loads: bool) -> None:
    import pty

    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "ifuvit", *arguments]
    subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    try:
        shown = os.read(terminal, 1000).decode()
    except OSError:  # nothing was written
        shown = ""
    assert ("loading PyTorch ...\r\n" in shown) == loads
    assert "loading" not in subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True).stderr


def test_control_c_at_any_moment_is_no_traceback() -> None:
    """From when the package is being loaded on; before, Python itself is."""
    code = (
        "import os, signal, sys, threading, time; sys.argv = ['ifuvit', 'generate', '--help']\n"
        "delay = float(os.environ['DELAY'])\n"
        "from ifuvit.__main__ import main\n"
        "threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()\n"
        "main()"
    )
    for delay in (0.0, 0.005, 0.02, 0.05, 0.1, 0.2):
        environment = {**ENVIRONMENT, "DELAY": str(delay)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 130, -signal.SIGINT), done.stderr
        assert "Traceback" not in done.stderr

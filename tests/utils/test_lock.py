"""Who writes a place: one process at a time, and what killed ones left is removed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ifuvit.utils import files
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, lock, write_text

HOLDS = """
import sys, time
from pathlib import Path
from ifuvit.utils.files import lock
with lock(Path(sys.argv[1]), inside=sys.argv[2] == "inside"):
    print("held", flush=True)
    time.sleep(60)
"""


def start(target: Path, where: str, rank: str = "0") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "RANK": rank}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(target), where], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_one_at_a_time_and_a_dead_one_is_forgotten(tmp_path: Path, where: str) -> None:
    target = tmp_path / "runs" / "run"
    child = start(target, where)
    try:
        owner = f"process {child.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"--out .*/runs/run: {owner} is writing there; wait for its end"):
            with lock(target, inside=where == "inside"):
                raise AssertionError("not reached")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    with lock(target, inside=where == "inside"):
        (file,) = tmp_path.rglob("*.lock")
        assert file.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.rglob("*lock*"))


def test_every_process_of_a_launch_has_its_own(tmp_path: Path) -> None:
    child = start(tmp_path, "inside", rank="1")
    try:
        with lock(tmp_path, inside=True):
            assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock-1"]
        with pytest.raises(InputError, match=f"process {child.pid} "), pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", "1")
            with lock(tmp_path, inside=True):
                raise AssertionError("not reached")
    finally:
        child.kill()
        child.communicate()


def test_directories_that_stay_empty_are_removed(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError), lock(tmp_path / "a" / "b", inside=True):
            raise ValueError
    assert not list(tmp_path.iterdir())
    with lock(tmp_path / "a" / "result.json"):
        write_text(tmp_path / "a" / "result.json", "{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "result.json"]


def test_a_lock_whose_owner_removes_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before the owner removed it, locked after: the lock of a file that is gone is worth nothing."""
    assert files.fcntl is not None
    flock, removed = files.fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        if not removed:
            removed.append(True)
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(files.fcntl, "flock", late)
    with lock(tmp_path, inside=True):
        assert (tmp_path / ".lock").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    with lock(tmp_path / "run", inside=True):
        write_text(tmp_path / "run" / "file", "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in (
        ".config.json.abcd1234.tmp",
        "samples/.step.png.abcd_234.tmp",
        "checkpoints/.step-00000001.abcd1234.tmp/model.safetensors",
        ".pipeline.abcd1234.old/weights",  # the only one there is
        "kept/.parts.abcd1234.old/new",  # its successor is there
        "kept/parts/new",
        "other/.lock",  # somebody else's, at work
        "dead/.lock",
        "dead/.model.abcd1234.tmp",
        "other/.model.abcd1234.tmp",
        ".git/.index.abcd1234.tmp",
        ".notes.old",
        "mine.abcd1234.tmp",
    ):
        write_text(run / name, name)
    assert files.fcntl is not None
    with open(run / "other" / ".lock") as held:
        files.fcntl.flock(held, files.fcntl.LOCK_EX)
        with lock(run, inside=True):
            left = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert left == sorted(
        [
            ".git/.index.abcd1234.tmp",
            ".lock",
            ".notes.old",
            "kept/parts/new",
            "mine.abcd1234.tmp",
            "other/.lock",
            "other/.model.abcd1234.tmp",
            "pipeline/weights",
        ]
    )
    for name in (".result.json.abcd1234.tmp", ".other.json.abcd1234.tmp"):
        write_text(tmp_path / name, "")
    with lock(tmp_path / "result.json"):
        assert (
            not (tmp_path / ".result.json.abcd1234.tmp").exists() and (tmp_path / ".other.json.abcd1234.tmp").exists()
        )


def test_the_work_of_other_processes_of_the_launch_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / ".part.abcd1234.tmp", "")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with lock(tmp_path, inside=True):
        assert (tmp_path / ".part.abcd1234.tmp").exists()


def test_foreign_directories_are_not_even_locked(tmp_path: Path) -> None:
    write_text(tmp_path / "thesis.txt", "mine")
    with pytest.raises(InputError, match="holds something else already"):
        with OutputDirectory(tmp_path, "train").lock():
            raise AssertionError("not reached")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

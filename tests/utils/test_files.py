"""Files written whole or not at all, and manifests."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ifuvit.utils import files
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    atomic_directory,
    atomic_path,
    fingerprint,
    is_full_disk,
    read_json,
    seal,
    sha256,
    unseal,
    write_json,
    write_manifest,
    write_text,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(target) as path:
        path.write_text("new")
        assert not target.exists() and path.parent == target.parent
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]
    with atomic_path(str(target)) as path:
        path.write_text("newer")
        assert target.read_text() == "new"
    assert target.read_text() == "newer"


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    for error in (RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(type(error)), atomic_path(target) as path:
            path.write_text("half of the n")
            raise error
        assert target.read_text() == "old"
        assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(OSError) as caught, atomic_path(target):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does: without a file's name
    assert is_full_disk(caught.value) and caught.value.filename == str(target)
    assert target.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_a_full_disk_is_known_in_any_writers_words() -> None:
    from safetensors import SafetensorError

    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        assert is_full_disk(error)
    for error in (PermissionError(errno.EACCES, "Permission denied"), RuntimeError("no"), MemoryError()):
        assert not is_full_disk(error)


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "file") as path:
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


KILLED = """
import os, signal, sys
from ifuvit.utils.files import atomic_directory, atomic_path
context = {"file": atomic_path, "directory": atomic_directory}[sys.argv[1]]
with context(sys.argv[2]) as path:
    (path / "file" if path.is_dir() else path).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_killed_write_leaves_the_old_content(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    inside = target / "file" if kind == "directory" else target
    write_text(inside, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(target)], env={**os.environ, **_path()})
    assert done.returncode == -signal.SIGKILL
    assert inside.read_text() == "old"
    # and the next write is not in the way of what the killed one left
    if kind == "file":
        write_text(target, "new")
    else:
        with atomic_directory(target) as path:
            (path / "file").write_text("new")
    assert inside.read_text() == "new"


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_a_directory_is_replaced_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "directory"
    with atomic_directory(target) as path:
        (path / "one").write_text("1")
        assert not target.exists()
    with atomic_directory(target) as path:
        (path / "two").write_text("2")
        assert names(target) == ["one"]
    assert names(target) == ["two"] and names(target.parent) == ["directory"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_directory_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "directory"
    write_text(target / "one", "1")
    with pytest.raises(error), atomic_directory(target) as path:
        (path / "two").write_text("2")
        raise error
    assert names(target) == ["one"] and names(tmp_path) == ["directory"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failing_replacement_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "directory"
    write_text(target / "one", "1")
    replace, calls = os.replace, []

    def second_fails(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:
            raise error
        replace(source, destination)

    with pytest.raises(type(error)), atomic_directory(target) as path:
        (path / "two").write_text("2")
        monkeypatch.setattr(files.os, "replace", second_fails)
    assert len(calls) == 3
    assert names(target) == ["one"] and names(tmp_path) == ["directory"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("precious")
    with pytest.raises(InputError, match="photo.png: is a file"), atomic_directory(tmp_path / "photo.png"):
        raise AssertionError("not reached")
    assert (tmp_path / "photo.png").read_text() == "precious"


def test_hidden_entries_of_a_replaced_directory_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    for name in ("one", ".git/HEAD", ".file.abc.tmp"):
        write_text(target / name, name)
    with atomic_directory(target) as path:
        (path / "two").write_text("2")
    assert names(target) == [".git", "two"] and names(tmp_path) == ["directory"]
    assert (target / ".git" / "HEAD").read_text() == ".git/HEAD"


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "disk" / "old" / "one", "1")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "old")
    with atomic_directory(tmp_path / "link") as path:
        (path / "two").write_text("2")
    assert names(tmp_path / "disk") == ["old"] and names(tmp_path / "disk" / "old") == ["two"]


@pytest.mark.parametrize("again", [False, True])
def test_everything_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A power cut keeps what was synced alone, so the order is all that counts."""
    if again:
        write_text(tmp_path / "run" / "step" / "state.json", "old")
    events: list[tuple[str, str]] = []
    sync, replace, remove = os.fsync, os.replace, files.shutil.rmtree

    def note_sync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def note_replace(source: Path, destination: Path) -> None:
        events.append(("name", Path(destination).name))
        replace(source, destination)

    def note_remove(path: Path, **options: object) -> None:
        if path.exists():
            events.append(("remove", path.suffix))
        remove(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files.os, "fsync", note_sync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    monkeypatch.setattr(files.shutil, "rmtree", note_remove)
    with atomic_directory(tmp_path / "run" / "step") as path:
        (path / "inner").mkdir()
        (path / "inner" / "model").write_text("weights")
        (path / "state.json").write_text("{}")
    named = events.index(("name", "step"))
    before = events[:named]
    assert {("sync", "model"), ("sync", "inner"), ("sync", "state.json"), ("sync", path.name)} <= set(before)
    assert again or before[0] == ("sync", tmp_path.name)  # the entry of the new directory "run"
    assert before.index(("sync", "model")) < before.index(("sync", "inner")) < before.index(("sync", path.name))
    assert events[named + 1 :] == [("sync", "run"), *[("remove", ".old")] * again]

    events.clear()
    with atomic_path(tmp_path / "run" / "file") as path:
        path.write_text("text")
    assert events == [("sync", path.name), ("name", "file"), ("sync", "run")]


def test_temporary_names_are_random_and_nothing_of_that_name_is_followed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        for context in (atomic_path, atomic_directory):
            with context(tmp_path / f"{context.__name__}") as path:
                assert not path.is_symlink() and path.stat().st_mode & 0o077 == 0  # nobody else's until it is whole
                seen.add(path.name)
                path.write_text("") if path.is_file() else None
    assert len(seen) == 6 and str(os.getpid()) not in {name.split(".")[-2] for name in seen}


def test_where_there_can_be_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write, name in ((write_text, "x.txt"), (_write_directory, "x")):
        with pytest.raises(InputError, match=rf"/file/{name}: cannot be written; .*/file is not a directory"):
            write(tmp_path / "file" / name, "")
    with pytest.raises(InputError, match="is a directory, not a file"):
        write_text(tmp_path, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _write_directory(path: Path, _: str) -> None:
    with atomic_directory(path):
        pass


def test_json(tmp_path: Path) -> None:
    value = {"text": "Äpfel", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "Äpfel" in (tmp_path / "value.json").read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"path": Path()})
    assert read_json(tmp_path / "value.json") == value


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "value.json") == {"a": 1}


@pytest.mark.parametrize("data", [b"", b'{"a": [1, 2', b"\xff\xfe\x00", b"nonsense"])
def test_broken_json_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="broken.json: not a valid JSON file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_missing_json_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    for path in (tmp_path / "none.json", tmp_path / "file" / "none.json"):
        with pytest.raises(InputError, match="none.json: no such file"):
            read_json(path)
    with pytest.raises(InputError, match="is a directory"):
        read_json(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "data").write_bytes(data)
    assert sha256(tmp_path / "data") == hashlib.sha256(data).hexdigest()


def test_a_fingerprint_depends_on_names_contents_and_facts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b = tmp_path / "a", tmp_path / "b"
    lines = f"a {sha256(a)}\nb {sha256(b)}\nmax_tokens 16\n"
    assert fingerprint([a, b], "max_tokens 16") == hashlib.sha256(lines.encode()).hexdigest()
    assert len({fingerprint([a, b]), fingerprint([b, a]), fingerprint([a]), fingerprint([a], "b")}) == 4


def test_manifest(tmp_path: Path) -> None:
    started = files.now()
    write_manifest(tmp_path, "train", {"seed": 7}, started=started, inputs={"features": "abc"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["command"] == "train" and manifest["config"] == {"seed": 7}
    assert manifest["inputs"] == {"features": "abc"}
    assert manifest["started"] == started <= manifest["finished"]
    assert started.endswith("+00:00")  # UTC
    assert manifest["ifuvit_version"].split("+")[0] == files.package_version()
    assert set(manifest["machine"]) == {"platform", "processor", "cpus", "python"}


def test_results_of_a_checkout_tell_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "ifuvit" / "utils"
    package.mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))

    def told() -> str:
        files.source_version.cache_clear()
        return files.manifest("train", {}, started=files.now())["ifuvit_version"]

    try:
        assert told() == files.package_version()
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        (package / "files.py").write_text("1\n")
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
            subprocess.run([*git, *command], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        assert told() == f"{files.package_version()}+{commit[:12]}"
        (package / "files.py").write_text("2\n")
        assert told() == f"{files.package_version()}+{commit[:12]}.dirty"
    finally:
        files.source_version.cache_clear()


def test_a_sealed_record_tells_of_any_change() -> None:
    """Of a value, of a name, and of the checksum's own name; records that never had one are as they are."""
    record = seal({"command": "scenes", "train": 40})
    assert unseal(dict(record), where="x.json") == {"command": "scenes", "train": 40}
    assert unseal({"command": "scenes"}, where="x.json") == {"command": "scenes"} and unseal({}, where="x.json") == {}
    (checksum,) = set(record) - {"command", "train"}
    for changed in (
        {**record, "train": 41},
        {("trajn" if name == "train" else name): value for name, value in record.items()},
        {("chebksum" if name == checksum else name): value for name, value in record.items()},
    ):
        with pytest.raises(InputError, match="x.json: was changed since it was written"):
            unseal(changed, where="x.json")

"""What every command leaves behind: files written whole or not at all, and a manifest that tells how they came to be."""

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ifuvit.utils.errors import InputError


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _begin(path: Path, create: Callable[[Path], None]) -> Path:
    """Make the temporary path and the directories above it."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        create(temporary)
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: cannot be written; {path.parent} is no directory that takes files") from None
    return temporary


def _make_readable(path: Path) -> None:
    """Ordinary permissions for what was written: safetensors' own files may be read by their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(0o666 & ~umask)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a file to be written to; it takes the name `path` only if the block ends
    without an exception, and is removed otherwise. Parent directories are made.

    Raises:
        InputError: `path` is a directory, or lies where there can be no file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file")
    temporary = _begin(path, Path.touch)
    try:
        yield temporary
        _make_readable(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # a full disk is noticed by a write, which does not know the file's name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a whole directory. A directory already at `path` is replaced at the end, and is put back
    if the replacement fails. (A process killed in the instant between the two renames leaves it beside `path` as
    `.NAME.PID.old`.)

    Raises:
        InputError: `path` is a file, or lies where there can be no directory.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, not a directory")
    shutil.rmtree(_temporary(path), ignore_errors=True)
    temporary, old = _begin(path, Path.mkdir), path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield temporary
        _make_readable(temporary)
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no more room, or no more for this user. Writers that are not Python
    (safetensors) say so in their own types, in the operating system's words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return any(os.strerror(number) in str(error) for number in full)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one is an InputError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, not a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a valid JSON file ({error}); it may be truncated") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The present moment in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_version() -> str:
    """The installed version of ifuvit, or "unknown" where it runs from a bare source tree."""
    try:
        return version("ifuvit")
    except PackageNotFoundError:
        return "unknown"


def manifest(command: str, config: Mapping[str, Any], *, started: str, **facts: Any) -> dict[str, Any]:
    """What made a result, from what, when and on which machine, as JSON values.

    Args:
        command: the command line command.
        config: the resolved configuration as JSON values (`ifuvit.utils.config.to_dict`).
        started: `now()` when the work began.
        facts: further JSON values: seed, hashes or fingerprints of inputs, counts, measured quantities.
    """
    return {
        "command": command,
        "ifuvit_version": package_version(),
        "config": dict(config),
        **facts,
        "started": started,
        "finished": now(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


def check_replaceable(directory: Path, command: str) -> None:
    """Let a command write a whole directory in the place of an empty one or of its own earlier result, and of nothing else.

    Raises:
        InputError: `directory` holds something else.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        earlier = directory / "manifest.json"
        if not earlier.is_file() or read_json(earlier).get("command") != command:
            raise InputError(f"--out {directory}: holds something else already; give a new or empty directory")


def write_manifest(
    directory: str | Path, command: str, config: Mapping[str, Any], *, started: str, **facts: Any
) -> None:
    """Write `manifest` as `manifest.json` into the directory that the command wrote."""
    write_json(Path(directory) / "manifest.json", manifest(command, config, started=started, **facts))

"""Output: files and directories that appear whole or not at all, the directory a command writes, and its manifest."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ifuvit.utils.errors import InputError

# --------------------------------------------------------------------------------------------------- whole or not at all


def _temporary_file(**place: Any) -> str:
    descriptor, name = tempfile.mkstemp(**place)
    os.close(descriptor)
    return name


def _begin(path: Path, create: Callable[..., str]) -> Path:
    """Make the directories above `path`, and a temporary next to it: its name is random, and nothing had it before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(create(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: cannot be written; {path.parent} is not a directory that takes files") from None


def _finish(path: Path) -> None:
    """Give ordinary permissions to what was written (temporaries may be read by their owner only), and put it on the disk: a
    rename that survives a power cut must not name data that did not."""
    umask = os.umask(0)
    os.umask(umask)
    if path.is_dir():
        for entry in path.iterdir():
            if not entry.is_symlink():
                _finish(entry)
        path.chmod(0o777 & ~umask)
        _sync_directory(path)
    else:
        path.chmod(0o666 & ~umask)
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Put a directory's entries on the disk, where the file system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` for a file to be written to; it takes the name `path`, on the disk, only if the
    block ends without an exception, and is removed otherwise. Parent directories are made.

    Raises:
        InputError: `path` is a directory, or lies where there can be no file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file")
    temporary = _begin(path, _temporary_file)
    try:
        yield temporary
        _finish(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk is noticed by a write, which does not know the file's name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a whole directory. A directory already at `path` is replaced at the end, and is put back
    if the replacement fails; hidden entries of it that are not temporary (.git, .nfs...) are kept. (A process killed in the
    instant between the two renames leaves it next to `path` as `.NAME.RANDOM.old`.)

    Raises:
        InputError: `path` is a file, or lies where there can be no directory.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, not a directory")
    if path.is_symlink():
        path = path.resolve()
    temporary = _begin(path, tempfile.mkdtemp)
    try:
        yield temporary
        _finish(temporary)
        old = temporary.with_suffix(".old")
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            _sync_directory(path.parent)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
        if old.exists():
            for entry in old.glob(".*"):
                if entry.suffix not in (".tmp", ".old") and not os.path.lexists(path / entry.name):
                    os.replace(entry, path / entry.name)
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
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # Windows' editors put a mark in front
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


def fingerprint(files: Iterable[Path], *facts: str) -> str:
    """SHA-256, in hexadecimal, over the names and contents of some files of one folder, in the order given, and over further
    `facts`, one line each."""
    lines = [*(f"{file.name} {sha256(file)}" for file in files), *facts]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


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
        command: the command's name, as `OutputDirectory` knows it.
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


def write_manifest(
    directory: str | Path, command: str, config: Mapping[str, Any], *, started: str, **facts: Any
) -> None:
    """Write `manifest` as `manifest.json` into the directory that the command wrote."""
    write_json(Path(directory) / "manifest.json", manifest(command, config, started=started, **facts))


# ------------------------------------------------------------------------------------------------- a command's directory


def check_writable(directory: Path, *, flag: str = "--out") -> None:
    """Make sure, before the work, that files can be written in a directory that may not exist yet. Leaves nothing behind.

    Args:
        directory: of the output.
        flag: where the user gave it, for errors.

    Raises:
        InputError: it is a file, lies below one, or cannot be written.
    """
    place = directory
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{flag} {directory}: {'' if place == directory else f'{place} '}is a file; give a directory")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=place))
    except OSError as error:
        raise InputError(f"{flag} {directory}: cannot be written ({error.strerror}); give another directory") from None


@dataclass(frozen=True)
class OutputDirectory:
    """The directory a command writes, and the one place that decides whether it may.

    It is the command's own if its record says so: a JSON object with the name of the command. A directory that is written
    step by step gets the record first (`begin`); one that appears as a whole has it inside (`write_manifest`, `replace`). A
    directory without a record is new if there are only hidden entries in it (temporaries of a killed process, .DS_Store) and
    the command's `own`.
    """

    path: Path
    command: str
    """The command's name with its action: "bench train"."""
    _: KW_ONLY
    record: str = "manifest.json"
    """Name of the file that holds the record."""
    own: tuple[str, ...] = ()
    """Names, or patterns of names, that the command may leave before there is a record."""
    signed: bool = True
    """Whether the record names the command. One under a name that no other command uses need not."""
    flag: str = "--out"
    """Where the user gave the directory, for errors."""

    def earlier(self) -> dict[str, Any] | None:
        """What the command recorded here before; None if the directory is new. Also makes sure that it can be written. Changes
        nothing.

        Raises:
            InputError: it is a file, cannot be written, or holds something else.
        """
        check_writable(self.path, flag=self.flag)
        file = self.path / self.record
        if file.is_file():
            record = read_json(file)
            if isinstance(record, dict) and (not self.signed or record.get("command") == self.command):
                return record
            raise self._foreign(self.record)
        names = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        if foreign := [name for name in names if not any(fnmatch(name, own) for own in (".*", *self.own))]:
            raise self._foreign(foreign[0])
        return None

    def matches(self, identity: Mapping[str, Any]) -> bool:
        """Whether the command began the same here before; False if the directory is new.

        Args:
            identity: JSON values that must be equal to those of the earlier record; mappings are compared item by item.

        Raises:
            InputError: as `earlier`, or the earlier record differs: the first difference is named.
        """
        earlier = self.earlier()
        if earlier is not None and (difference := _difference(identity, earlier)):
            raise InputError(f"{self.flag} {self.path}: was begun with {difference}; give another {self.flag}")
        return earlier is not None

    def begin(self, identity: Mapping[str, Any], **further: Any) -> bool:
        """Make the directory and write the record, or go on with what was begun here.

        Args:
            identity: as `matches`.
            further: JSON values that are recorded and may differ. They replace values of `identity` of the same names.

        Returns:
            Whether the same was begun here before.

        Raises:
            InputError: as `matches`.
        """
        begun = self.matches(identity)
        signature = {"command": self.command} if self.signed else {}
        write_json(self.path / self.record, {**signature, **identity, **further})
        return begun

    @contextmanager
    def replace(self) -> Iterator[Path]:
        """`atomic_directory` for the whole directory, which the command's own earlier result gives way to.

        Raises:
            InputError: as `earlier`.
        """
        self.earlier()
        with atomic_directory(self.path) as temporary:
            yield temporary

    def _foreign(self, name: str) -> InputError:
        return InputError(
            f"{self.flag} {self.path}: holds something else already ({name}), not what `ifuvit {self.command}` writes; give a "
            "new or empty directory"
        )


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first difference in words: "steps 3, not 4"."""

    def short(value: Any) -> str:
        return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else str(value)

    for key, value in mine.items():
        was, name = theirs.get(key), prefix + key
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            if difference := _difference(value, was, "" if key == "config" else f"{name}."):
                return difference
        elif was != value:
            if hashed := re.fullmatch(r"(.+)[._](sha256|fingerprint)", name):
                return f"other {hashed[1].replace('_', ' ')}"
            said = name if "." in name else name.replace("_", " ")  # a path of sections is what a file has
            return f"{said} {short(was)}, not {short(value)}"
    return None

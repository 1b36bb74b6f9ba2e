"""Output: files and directories that appear whole or not at all, the directory a command writes, its lock, and its manifest."""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks: two commands in one directory are not told from one
    fcntl = None

from ifuvit.utils.errors import InputError, LockedError

# --------------------------------------------------------------------------------------------------- whole or not at all


def _temporary_file(**place: Any) -> str:
    descriptor, name = tempfile.mkstemp(**place)
    os.close(descriptor)
    return name


def _make_directories(path: Path) -> list[Path]:
    """Make a directory and those above it, on the disk; those that were not there, from the top."""
    made = []
    for place in reversed([path, *path.parents]):
        if not place.exists():
            place.mkdir(exist_ok=True)
            made.append(place)
            _sync_directory(place.parent)
    return made


def _begin(path: Path, create: Callable[..., str]) -> Path:
    """Make the directories above `path`, and a temporary next to it: its name is random, and nothing had it before."""
    try:
        _make_directories(path.parent)
        return Path(create(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: cannot be written; {path.parent} is not a directory that takes files") from None


def _finish(path: Path, private: tuple[str, ...] = (), *, sync: bool = True) -> None:
    """Give ordinary permissions to what was written (temporaries may be read by their owner only), and put it on the disk: a
    rename that survives a power cut must not name data that did not. What has a name of the pattern `private` stays its
    owner's."""
    umask = 0o077
    if not any(fnmatch(path.name, pattern) for pattern in private):
        umask = os.umask(0)
        os.umask(umask)
    if path.is_dir():
        for entry in path.iterdir():
            if not entry.is_symlink():
                _finish(entry, private)
        path.chmod(0o777 & ~umask)
        _sync_directory(path)
    else:
        path.chmod(0o666 & ~umask)
        if sync:
            sync_file(path)


def sync_file(path: Path) -> None:
    """Put what was written to a file on the disk."""
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
def atomic_path(path: str | Path, *, private: bool = False, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path` for a file to be written to; it takes the name `path`, on the disk, only if the
    block ends without an exception, and is removed otherwise. Parent directories are made.

    Args:
        path: the file.
        private: only its owner may read the file, at any moment.
        sync: wait for the disk. Without, a power cut may leave an empty or torn file.

    Raises:
        InputError: `path` is a directory, or lies where there can be no file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file")
    temporary = _begin(path, _temporary_file)
    try:
        yield temporary
        _finish(temporary, ("*",) if private else (), sync=sync)
        os.replace(temporary, path)
        if sync:
            _sync_directory(path.parent)
    except OSError as error:
        # A write does not know the file's name, and that of the temporary tells nobody anything.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, private: tuple[str, ...] = ()) -> Iterator[Path]:
    """Like `atomic_path` for a whole directory. A directory already at `path` is replaced at the end, and is put back
    if the replacement fails; hidden entries of it that are not temporary (.git, .nfs...) are kept. (A process killed in the
    instant between the two renames leaves it next to `path` as `.NAME.RANDOM.old`; `lock` puts it back.)

    Args:
        private: patterns of names of files that only their owner may read, at any moment.

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
        _finish(temporary, private)
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
            shutil.rmtree(old, ignore_errors=True)  # what an error that passed has left would stay for good
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no more room, or no more for this user. Writers that are not Python
    (safetensors) say so in their own types, in the operating system's words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return any(os.strerror(number) in str(error) for number in full)


def write_text(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a text file, whole or not at all; see `atomic_path`."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, private: bool = False) -> None:
    """Write `value` as indented JSON, whole or not at all; see `atomic_path`. What UTF-8 cannot hold, as a path of Latin-1
    bytes, is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path, private=private) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


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


def read_object(path: str | Path) -> dict[str, Any]:
    """`read_json` of a file whose top level is an object; anything else is an InputError that names it."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not an object with fields")
    return value


@contextmanager
def reading(file: str | Path) -> Iterator[None]:
    """Whatever goes wrong in the block with values that were read from `file` becomes one line that names it.

    Raises:
        InputError: in place of a missing key, a value of another type, and the like.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, EOFError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise InputError(f"{file}: damaged, or not what ifuvit writes ({reason})") from None


def is_present(path: Path) -> bool:
    """Whether there is anything at `path`. What cannot be seen is not taken for absent, as `Path.exists` does.

    Raises:
        OSError: it cannot be found out (no permission, a fault of the disk).
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


CHECKSUMS = "checksums.json"


def write_checksums(directory: Path, *names: str) -> None:
    """Write the SHA-256 of files of a directory into its checksums.json, for `verify_checksums`."""
    write_json(directory / CHECKSUMS, {name: sha256(directory / name) for name in names})


def verify_checksums(directory: Path) -> None:
    """Compare the files that a directory's checksums.json lists; a directory without one is not checked.

    Raises:
        InputError: one is missing or was changed.
    """
    file = directory / CHECKSUMS
    if not is_present(file):
        return
    sums = read_json(file)
    if not isinstance(sums, dict):
        raise InputError(f"{file}: not a list of checksums; it is damaged")
    for name, expected in sums.items():
        path = directory / name
        if not is_present(path):
            raise InputError(f"{path}: is missing, and {CHECKSUMS} next to it lists it")
        if sha256(path) != expected:
            raise InputError(
                f"{path}: its SHA-256 is not that of {file}: damaged; copy it again (if you changed it on purpose, delete "
                f"{CHECKSUMS})"
            )


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum of their own, which `unseal` compares."""
    return {**values, "checksum": _checksum(values)}


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def unseal(values: dict[str, Any], *, where: str | Path) -> dict[str, Any]:
    """The inverse of `seal`; values without a checksum are as they are.

    Raises:
        InputError: they were changed since; `where` names the file.
    """
    plain = _without(values, "checksum")
    if "checksum" in values:
        damaged = values["checksum"] != _checksum(plain)
    else:  # never had one, or has it under a damaged name
        damaged = any(values[last] == _checksum(_without(values, last)) for last in [*values][-1:])
    if damaged:
        raise InputError(
            f"{where}: was changed since it was written: damaged; copy it again (if you changed it on purpose, remove its "
            '"checksum")'
        )
    return plain


def _checksum(values: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(values))  # keys are text
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


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


@functools.cache
def source_version() -> str:
    """`package_version`, and of a checkout the commit behind it: "0.1.0+1a2b3c4d5e6f", "….dirty" with changes of its own."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return package_version()
    described = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(described, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or not allowed to read there
        return package_version()
    return f"{package_version()}+{commit}"


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
        "ifuvit_version": source_version(),
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
    """Write `manifest`, sealed, as `manifest.json` into the directory that the command wrote."""
    write_json(Path(directory) / "manifest.json", seal(manifest(command, config, started=started, **facts)))


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
        tempfile.TemporaryFile(dir=place).close()  # has no name, so that a killed process leaves nothing
    except OSError as error:
        raise InputError(f"{flag} {directory}: cannot be written ({error.strerror}); give another directory") from None


# Temporaries of the contexts above.
_REST = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>tmp|old)")


@contextmanager
def lock(path: Path, *, inside: bool = False, flag: str = "--out") -> Iterator[None]:
    """In the block this process alone writes `path`, and what killed processes left of their writing is removed first.

    The lock is advisory and the system's, so it ends with its process, however that ends; the file that carries it says who
    has it. Every process of a launch has its own. File systems without locks, and Windows, are written without one.

    Args:
        path: a file, or a directory that appears as a whole; with `inside` a directory that is written step by step.
        inside: have the lock in the directory, which is made if need be (and removed again if it stays empty).
        flag: where the user gave `path`, for errors.

    Raises:
        LockedError: another process writes there.
        InputError: nobody can.
    """
    if fcntl is None:
        yield
        return
    rank = os.environ.get("RANK", "0")
    name = ".lock" if rank == "0" else f".lock-{rank}"
    file = path / name if inside else path.with_name(f".{path.name}{name}")
    made = []
    try:
        made = _make_directories(file.parent)
        descriptor = _acquire(file, f"{flag} {path}")
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be written ({error.strerror}); give another place") from None
    try:
        if rank == "0" and os.environ.get("WORLD_SIZE", "1") == "1":
            _remove_rests(path if inside else path.parent, None if inside else path.name)
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        for place in reversed(made):
            try:
                place.rmdir()
            except OSError:  # something is in it
                break


def _acquire(file: Path, what: str) -> int:
    """The descriptor of a lock file that has the lock, with the name of this process in it."""
    assert fcntl is not None
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed the file after it was opened here.
            if file.exists() and os.path.samestat(os.fstat(descriptor), os.stat(file)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise LockedError(f"{what}: {owner} is writing there; wait for its end, or give another place") from None
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                return descriptor
            os.close(descriptor)
            raise


def _remove_lock(file: Path) -> bool:
    """Remove the lock file of a dead process. Returns whether it was one's: nobody has the lock."""
    assert fcntl is not None
    try:
        descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    except OSError:  # somebody has it, or nobody can tell
        return False
    finally:
        os.close(descriptor)
    return True


def _remove_rests(directory: Path, name: str | None) -> None:
    """Remove temporaries of dead processes: of one entry of a directory, or all in and below it but those in directories that
    are locked themselves. What was to be replaced, and was not, gets its name back."""
    for place, folders, files in os.walk(directory):
        locks = [Path(place, file) for file in files if file.startswith(".lock")]
        if Path(place) != directory and not all(_remove_lock(file) for file in locks):
            folders.clear()
            continue
        for entry in [*folders, *files]:
            match = _REST.fullmatch(entry)
            if match is None or name not in (None, match["name"]):
                continue
            rest = Path(place, entry)
            if match["kind"] == "old" and not os.path.lexists(rest.with_name(match["name"])):
                os.replace(rest, rest.with_name(match["name"]))
            elif entry in folders:
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink(missing_ok=True)
        folders[:] = [] if name else [folder for folder in folders if not folder.startswith(".")]


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
        if is_present(file):
            record = read_json(file)
            if isinstance(record, dict) and (not self.signed or record.get("command") == self.command):
                return unseal(record, where=file)
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
        write_json(self.path / self.record, seal({**signature, **identity, **further}))
        return begun

    @contextmanager
    def replace(self, *, private: tuple[str, ...] = ()) -> Iterator[Path]:
        """`atomic_directory` for the whole directory, which the command's own earlier result gives way to.

        Raises:
            InputError: as `earlier`.
        """
        self.earlier()
        with lock(self.path, flag=self.flag), atomic_directory(self.path, private=private) as temporary:
            yield temporary

    @contextmanager
    def lock(self) -> Iterator[None]:
        """`lock` for a directory that is written step by step; it may hold nothing of others.

        Raises:
            InputError: as `earlier`, or another process writes there.
        """
        self.earlier()
        with lock(self.path, inside=True, flag=self.flag):
            yield

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

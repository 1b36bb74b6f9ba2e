"""Copy a file system at random moments of a training and of a preparation, as a power cut would leave it, and run the same
command again on each copy.

    python tools/power_cuts.py [--cuts 20] [--out RESULT.json]

Needs Linux, root and loop devices. The file system is ext4 in a file, mounted so that nothing but the command's own syncing
protects it: data are not written before the entries that name them (data=writeback), and renames do not write what they rename
(noauto_da_alloc). The command is stopped before a file-system event drawn at random, then a random while passes in which the kernel
may write on its own, and the file is copied until two copies are equal. What must hold of every copy: it can be mounted; the
command ends with status 0 and with the files of an uninterrupted run; no more than one interval is lost, which is the steps
between two checkpoints, or one shard.
"""

import argparse
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import file_faults
from file_faults import Scenario, contents, difference, run

OPTIONS = "loop,noauto_da_alloc,data=writeback,commit=1"
MEGABYTES = 32


@dataclass(frozen=True)
class Cut:
    """One copy, and what became of it."""

    event: int
    """Before which the command was stopped."""
    seconds: float
    """Until the copy was made."""
    done: int
    """Steps or shards that the stopped command had done."""
    kept: int
    """Of these, what the copy has."""
    problem: str | None


@dataclass(frozen=True)
class Case:
    """A command that is cut."""

    scenario: Scenario
    done: Callable[[Path], int]
    """Steps or shards that a command at work has done, from its directory."""
    kept: Callable[[Path], int]
    """Those that the next run does not do again."""
    interval: int
    """What may be lost."""


def _logged(out: Path) -> int:
    log = out / "run" / "metrics.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def _checkpoint(out: Path) -> int:
    from ifuvit.training.checkpoint import read_newest

    newest, _ = read_newest(out / "run")
    return 0 if newest is None else newest.state["step"]


def _shards(out: Path) -> int:
    from ifuvit.data.encoded import EncodedDatasetWriter

    writer = EncodedDatasetWriter(out / "data")
    if writer.finished:
        return 2 * SHARDS
    return sum(writer.done(kind, shard) is not None for kind in ("moments", "text") for shard in range(SHARDS))


STEPS, SAVE_EVERY, SHARDS, SHARD_SIZE = 24, 4, 6, 3

CASES = {
    "train": Case(
        Scenario(
            file_faults.write_data,
            lambda inputs, out: file_faults.train(inputs, out, steps=STEPS, save_every=SAVE_EVERY),
        ),
        _logged,
        _checkpoint,
        SAVE_EVERY,
    ),
    "prepare": Case(
        Scenario(lambda inputs: file_faults.write_encoders(inputs, images=SHARDS * SHARD_SIZE), file_faults.prepare),
        _shards,
        _shards,
        1,
    ),
}


def why_not() -> str | None:
    """Why no file system can be mounted here; None if one can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "requires Linux and root"
    with tempfile.TemporaryDirectory() as place:
        try:
            with Disk(Path(place)).mounted():
                pass
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return f"no loop mounts here: {said.strip()}"
    return None


class Disk:
    """A new file system in a file, and the directory where it, or a copy, is mounted."""

    def __init__(self, place: Path) -> None:
        self.file, self.root = place / "disk.img", place / "mounted"
        self.root.mkdir(exist_ok=True)
        with open(self.file, "wb") as file:
            file.truncate(MEGABYTES << 20)
        _call("mkfs.ext4", "-q", "-F", str(self.file))

    @contextmanager
    def mounted(self, file: Path | None = None) -> Iterator[Path]:
        """In the block the file system, or the copy of it in `file`, is at the path that is yielded."""
        _call("mount", "-o", OPTIONS, str(file or self.file), str(self.root))
        try:
            yield self.root
        finally:
            _call("umount", str(self.root))

    def copy(self, to: Path) -> None:
        """The file as it is at one moment: copied until nothing was written meanwhile."""
        shutil.copyfile(self.file, to)
        while not filecmp.cmp(self.file, to, shallow=False):
            shutil.copyfile(self.file, to)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def check(name: str, count: int, place: Path) -> list[Cut]:
    """Cut a command, and print what fails.

    Args:
        name: of a case.
        count: how many times.
        place: an empty directory.
    """
    case, inputs = CASES[name], place / "inputs"
    inputs.mkdir(parents=True)
    case.scenario.prepare(inputs)
    rng = random.Random(name)

    disk = Disk(place)
    out = disk.root / "out"
    arguments = case.scenario.arguments(inputs, out)
    with disk.mounted():
        out.mkdir()
        whole = run(case.scenario, arguments, out)
        expected = contents(out)
    if whole.status:
        raise SystemExit(f"{name} fails without a cut: {whole.words[-1500:]}")

    moments, copies = sorted(rng.sample(range(1, whole.events + 1), count)), []

    def cut() -> None:
        begun = time.monotonic()
        time.sleep(rng.uniform(0, 1.5))
        copy, done = place / f"{len(copies)}.img", case.done(out)
        disk.copy(copy)
        copies.append((copy, done, time.monotonic() - begun))

    disk = Disk(place)
    with disk.mounted():
        out.mkdir()
        run(case.scenario, arguments, out, set(moments), "stop", stopped=cut)
    assert len(copies) == count

    cuts = []
    for event, (copy, done, seconds) in zip(moments, copies, strict=True):
        with disk.mounted(copy):
            out.mkdir(exist_ok=True)  # the cut may have come before it
            kept = case.kept(out)
            problem = _again(case, arguments, out, expected)
        if problem is None and done - kept > case.interval:
            problem = f"{done - kept} are lost, more than {case.interval}"
        cuts.append(Cut(event, round(seconds, 2), done, kept, problem))
        print(f"{name}, cut before event {event}: {kept} of {done} kept; {problem or 'as uninterrupted'}", flush=True)
        copy.unlink()
    return cuts


def _again(case: Case, arguments: Sequence[str], out: Path, expected: dict[str, object]) -> str | None:
    ended = run(case.scenario, arguments, out)
    if ended.status:
        return f"the next run ends with {ended.status}: {ended.words[-600:]}"
    return difference(contents(out), expected)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20, help="of either command")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing stays mounted
    if reason := why_not():
        sys.exit(f"skipped: {reason}")
    file_faults.warm_up()
    from ifuvit.utils.files import manifest, now, write_json

    started, done = now(), {}
    with tempfile.TemporaryDirectory() as place:
        for name in CASES:
            done[name] = check(name, options.cuts, Path(place, name))
    failures = sum(cut.problem is not None for cuts in done.values() for cut in cuts)
    if options.out:
        facts = {
            "failures": failures,
            "most_lost": {name: max(cut.done - cut.kept for cut in cuts) for name, cuts in done.items()},
            "cuts": {name: [asdict(cut) for cut in cuts] for name, cuts in done.items()},
        }
        write_json(options.out, manifest("tools/power_cuts.py", {"mounted": OPTIONS}, started=started, **facts))
    sys.exit(f"{failures} cuts lose something" if failures else 0)


if __name__ == "__main__":
    main()

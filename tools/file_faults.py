"""Kill a command at its N-th file-system event, or let that event fail; run the same command again; compare the result with
that of an uninterrupted run.

    python tools/file_faults.py                                   every event of every command, killed and with every error
    python tools/file_faults.py train --kinds kill EIO            of one command
    python tools/file_faults.py --points 100                      so many, spread evenly over all of these
    python tools/file_faults.py --out results/file-faults.json    and keep how many were tried, and what failed

An event is a call of the system that names a file below the command's directory: open, rename, mkdir, rmdir, remove, chmod
and scandir (Python's audit hooks), fsync, and every write, of which a kill lets the first half pass. What must hold: the
failed run ends in one line and status 2, or not at all; the second run ends with status 0, its files are those of the
uninterrupted run but for times, and nothing else is left.

Every run is a fork of one process that has imported everything, so that a point takes about a second.
"""

import argparse
import builtins
import errno
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

KINDS = ("kill", "ENOSPC", "EDQUOT", "EIO", "EMFILE", "EFBIG")

# Of JSON files and lines: what tells the time, or is a hash of something that does.
TIMES = {
    *("started", "finished", "seconds", "training_seconds", "processor_seconds", "steps_per_second", "data_wait"),
    *("checksum", "checksums", "images_per_second", "per_second"),
}


@dataclass(frozen=True)
class Scenario:
    """A command on small inputs."""

    prepare: Callable[[Path], None]
    """Makes its inputs in a directory."""
    arguments: Callable[[Path, Path], Sequence[str]]
    """The command line, from the directories of inputs and outputs."""
    replace: Callable[[], None] = lambda: None
    """What is replaced by something smaller in the process of the command."""


# ---------------------------------------------------------------------------------------------------------------- the faults


class Faults:
    """Counts file-system events below a directory, and lets some of them fail; of kind "stop", stops the process before
    them."""

    def __init__(self, below: Path, at: Container[int], kind: str) -> None:
        self.below, self.at, self.kind, self.count = str(below.resolve()), at, kind, 0

    def event(self, path: Any, before_kill: Callable[[], object] = lambda: None) -> None:
        """Something is about to happen to a path, or to the path of a descriptor."""
        try:
            name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
        except (OSError, TypeError):
            return
        if not os.path.abspath(name).startswith(self.below):
            return
        self.count += 1
        if self.count in self.at:
            if self.kind == "stop":
                return os.kill(os.getpid(), signal.SIGSTOP)
            if self.kind == "kill":
                before_kill()
                os.kill(os.getpid(), signal.SIGKILL)
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number), None if isinstance(path, int) else name)

    def install(self) -> None:
        """For good: the process is one that ends soon."""
        names = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.scandir"}

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            if name in names:
                self.event(arguments[0])

        sync, save = os.fsync, None

        def fsync(descriptor: int) -> None:
            self.event(descriptor)
            sync(descriptor)

        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                faults.event(self.fileno(), lambda: super(Raw, self).write(bytes(data)[: len(data) // 2]))
                return super().write(data)

        plain_open = io.open

        def open_(file: Any, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None, **more):
            if isinstance(file, int) or "r" in mode and "+" not in mode or buffering == 0 or more:
                return plain_open(file, mode, buffering, encoding, errors, newline, **more)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)  # type: ignore[type-var]
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        import safetensors.torch
        from safetensors import SafetensorError

        save = safetensors.torch.save_file

        def save_file(tensors: Any, filename: Any, *rest: Any, **named: Any) -> None:
            def half() -> None:
                save(tensors, filename, *rest, **named)
                os.truncate(filename, os.path.getsize(filename) // 2)

            try:
                self.event(filename, half)
            except OSError as error:
                words = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                raise SafetensorError(words) from None
            save(tensors, filename, *rest, **named)

        safetensors.torch.save_file = save_file
        os.fsync, io.open, builtins.open = fsync, open_, open_  # type: ignore[assignment]
        sys.addaudithook(hook)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    status: int
    """Of the process; negative for a signal."""
    words: str
    """What it wrote to stderr."""
    events: int


def run(
    scenario: Scenario,
    arguments: Sequence[str],
    below: Path,
    at: Container[int] = (),
    kind: str = "kill",
    *,
    stopped: Callable[[], None] = lambda: None,
) -> Ended:
    """`ifuvit ARGUMENTS` in a fork of this process, with faults at events below a directory; `stopped` is called while the
    process is stopped."""
    with tempfile.TemporaryDirectory() as place:
        words, count = Path(place, "stderr"), Path(place, "count")
        sys.stdout.flush()
        sys.stderr.flush()
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            status = 70
            faults = Faults(below, at, kind)
            try:
                with open(words, "w") as file:
                    os.dup2(file.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                sys.argv = ["ifuvit", *arguments]
                from ifuvit.commands.main import main

                scenario.replace()
                faults.install()
                main()
                status = 0
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                status = 1
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os.write(os.open(count, os.O_CREAT | os.O_WRONLY), str(faults.count).encode())
                os._exit(status)
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            stopped()
            os.kill(child, signal.SIGCONT)
        return Ended(
            os.waitstatus_to_exitcode(status), words.read_text(), int(count.read_text()) if count.exists() else 0
        )


# ------------------------------------------------------------------------------------------------------------ what is compared


def contents(out: Path) -> dict[str, Any]:
    """All files below a directory, without times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(one) for key, one in value.items() if key not in TIMES}
        return [timeless(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            found[f"{name}/"] = None
        elif path.name in ("checksums.json", "index.html", "run.html"):  # of files that tell the time; pages of them
            found[name] = None
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first difference in words."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            return f"{name} is left"
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected[name]:
            return f"{name} differs"
    return None


def point(
    scenario: Scenario, arguments: Sequence[str], out: Path, at: int, kind: str, expected: dict[str, Any]
) -> str | None:
    """One fault, and the same command again. Returns what is wrong, if anything is."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    failed = run(scenario, arguments, out, {at}, kind)
    # An experiment tells of every run that fails when it does, and why it ends at the end.
    told = [line for line in re.split(r"[\n\r]", failed.words) if line.startswith("ifuvit: ")]
    lines = [line for line in told if not re.match(r"ifuvit: (train|evaluate|encode) .* failed: ", line)]
    if kind == "kill" and failed.status not in (-signal.SIGKILL, 0):
        return f"ended with {failed.status} instead of being killed: {failed.words[-300:]}"
    if kind != "kill" and (failed.status not in (0, 2) or "Traceback" in failed.words):
        return f"status {failed.status}: {failed.words[-600:]}"
    if failed.status == 2 and len(lines) != 1:
        return f"{len(lines)} lines say why: {failed.words[-300:]}"
    if failed.status == 0 and (wrong := difference(contents(out), expected)):
        return f"ended with status 0, but {wrong}"
    again = run(scenario, arguments, out)
    if again.status != 0:
        return f"the second run ends with {again.status}: {again.words[-600:]}"
    return difference(contents(out), expected)


# ---------------------------------------------------------------------------------------------------------------- the commands


def write_data(inputs: Path) -> None:
    """An encoded data set."""
    from tiny_training import write_features

    write_features(inputs / "data")


def train(inputs: Path, out: Path, *, steps: int = 4, save_every: int = 2) -> list[str]:
    """The command line of a training."""
    from tiny_training import MODEL_FLAGS

    numbers = [
        f"--steps={steps}",
        f"--save-every={save_every}",
        "--log-every=1",
        "--batch-size=4",
        "--warmup-steps=0",
        "--sample-every=0",
    ]
    more = ["--validate-every=2", "--validation-images=4", "--precision=fp32", "--keep-checkpoints=1", "--workers=0"]
    return [
        *("train", "openmoji-cross-intermediate", *MODEL_FLAGS, *numbers, *more),
        *(f"--data={inputs / 'data'}", f"--out={out / 'run'}"),
    ]


def write_encoders(inputs: Path, *, images: int = 6) -> None:
    """An autoencoder and a text encoder, and a folder of captioned images."""
    from tiny_pipeline import write_text_encoder, write_vae

    write_vae(inputs / "vae")
    write_text_encoder(inputs / "text")
    _images(inputs / "images", images)


def _images(folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"{['one', 'two', 'three'][index % 3]} sheep")


def prepare(inputs: Path, out: Path) -> list[str]:
    """The command line of a preparation."""
    encoders = [f"--autoencoder={inputs / 'vae'}", f"--text-encoder={inputs / 'text'}", "--max-tokens=8"]
    sizes = ["--size=8", "--shard-size=3", "--batch-size=2", "--workers=1", "--text=embeddings"]
    return ["prepare", "folder", str(inputs / "images"), f"--out={out / 'data'}", *encoders, *sizes]


def _model(inputs: Path) -> None:
    from tiny_pipeline import write_tiny_pipeline

    write_tiny_pipeline(inputs / "model")


def _generate(inputs: Path, out: Path) -> list[str]:
    return ["generate", "one sheep", "two buses", f"--model={inputs / 'model'}", f"--out={out / 'images'}", "--steps=2"]


def _evaluate(inputs: Path, out: Path) -> list[str]:
    settings = ["--metrics=counts", "--count-prompts=paper=1", "--steps=2", "--solver=dpm++2m", "--batch-size=8"]
    return ["evaluate", str(inputs / "model"), f"--out={out / 'result.json'}", *settings]


def _model_and_images(inputs: Path) -> None:
    _model(inputs)
    _images(inputs / "images", 16)


def _sweep(inputs: Path, out: Path) -> list[str]:
    settings = ["--metrics=distances", "--num-images=8", "--steps=1", "--guidance-scales", "1", "2"]
    return ["evaluate", str(inputs / "model"), f"--data={inputs / 'images'}", f"--out={out / 'sweep'}", *settings]


def _experiment(inputs: Path, out: Path) -> list[str]:
    encoders = [f"--autoencoder={inputs / 'vae'}", f"--text-encoder={inputs / 'text'}"]
    return ["experiment", "table1", "--scale=smoke", "--only=cross-early", f"--out={out / 'experiment'}", *encoders]


def _smaller_experiment() -> None:
    """The smallest scale for tiny encoders, and evaluators without networks."""
    from dataclasses import replace

    from tiny_evaluation import Brightness, Words

    from ifuvit.diffusion.settings import SamplingSettings
    from ifuvit.evaluation import run as evaluation
    from ifuvit.experiments import SCALES, config, plan

    model = {
        "latent_channels": 4,
        "embed_dim": 16,
        "num_heads": 2,
        "depth": 2,
        "text_width": 16,
        "text_tokens": 8,
        "n_image": 0,
    }
    recipe = {"steps": 2, "batch_size": 2, "warmup_steps": 0, "save_every": 1, "sample_every": 0, "evaluate_every": 0}
    further = {"validate_every": 2, "validation_images": 2, "workers": 0, "precision": "fp32"}
    smoke = replace(
        SCALES["smoke"],
        model=model,
        recipe=recipe | further,
        scenes=(3, 3),
        images=3,
        sampling=SamplingSettings(steps=1, guidance_scale=2.0),
    )
    config.SCALES = plan.SCALES = {**SCALES, "smoke": smoke}
    stubs = {"distances": Brightness, "alignment": Words, "counts": Brightness, "costs": Brightness}
    evaluation.find_evaluator = stubs.__getitem__


def _scenes(inputs: Path, out: Path) -> list[str]:
    return ["scenes", f"--out={out / 'scenes'}", "--train=3", "--val=2", "--size=32"]


def _autoencoder(inputs: Path, out: Path) -> list[str]:
    sizes = ["--size=16", "--channels", "4", "8", "--steps=3", "--batch-size=2", "--held-out=2", "--log-every=1"]
    place = [f"--images={inputs / 'images'}", f"--out={out / 'run'}", "--checkpoint-minutes=0.00001"]
    return ["make-standin", "autoencoder", *place, *sizes, "--precision=fp32"]


SCENARIOS = {
    "scenes": Scenario(lambda inputs: None, _scenes),
    "generate": Scenario(_model, _generate),
    "train": Scenario(write_data, train),
    "prepare": Scenario(write_encoders, prepare),
    "autoencoder": Scenario(lambda inputs: _images(inputs / "images", 6), _autoencoder),
    "evaluate": Scenario(_model, _evaluate),
    "sweep": Scenario(_model_and_images, _sweep),
    "experiment": Scenario(write_encoders, _experiment, _smaller_experiment),
}


@dataclass(frozen=True)
class Checked:
    """What came of the points of a command."""

    command: str
    events: int
    """Of a run without a fault."""
    points: int
    """Tried, of events times kinds."""
    complete: bool
    """Whether all that were to be tried were."""
    failures: dict[str, str]
    """What is wrong, by fault."""


def check(name: str, kinds: Sequence[str], points: int | None, place: Path) -> Checked:
    """Try points of a command, and print those that fail.

    Args:
        name: of a scenario.
        kinds: of faults.
        points: how many, spread evenly; None for all.
        place: a directory for inputs and outputs.
    """
    scenario, inputs, out = SCENARIOS[name], place / name / "inputs", place / name / "out"
    inputs.mkdir(parents=True)
    out.mkdir()
    scenario.prepare(inputs)
    arguments = scenario.arguments(inputs, out)
    whole = run(scenario, arguments, out)
    if whole.status:
        raise SystemExit(f"{name} fails without a fault: {whole.words[-1500:]}")
    expected, failures = contents(out), {}
    everything = [(at, kind) for at in range(1, whole.events + 1) for kind in kinds]
    step = 1 if points is None else max(1.0, len(everything) / points)
    chosen = [everything[int(place * step)] for place in range(int(len(everything) / step))]
    random.Random(0).shuffle(chosen)  # those of a call that is stopped are spread evenly too
    tried = 0
    try:
        for at, kind in chosen:
            if wrong := point(scenario, arguments, out, at, kind, expected):
                failures[f"{kind} at event {at}"] = wrong
                print(f"{name}, {kind} at event {at}: {wrong}", flush=True)
            tried += 1
    except KeyboardInterrupt:
        print("stopped; the rest was not tried")
    print(f"{name}: {whole.events} events, {tried} of {len(everything)} points tried", flush=True)
    return Checked(name, whole.events, tried, tried == len(chosen), failures)


def warm_up() -> None:
    """Import what the commands do, so that forks need not."""
    import accelerate  # noqa: F401
    import diffusers.models.autoencoders.autoencoder_kl  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import ifuvit.commands.evaluate
    import ifuvit.commands.experiment
    import ifuvit.commands.generate
    import ifuvit.commands.make_standin
    import ifuvit.commands.prepare
    import ifuvit.commands.scenes
    import ifuvit.commands.train
    import ifuvit.data.prepare
    import ifuvit.evaluation.run
    import ifuvit.experiments.run
    import ifuvit.metrics.distances.feature_networks
    import ifuvit.pipeline
    import ifuvit.reporting.run_page
    import ifuvit.standins.autoencoder
    import ifuvit.training.loop
    import ifuvit.training.setup  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--points", type=int, help="default: all")
    parser.add_argument("--out", type=Path, help="a JSON file for the results, written after every command")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the results so far are written first
    warm_up()
    from ifuvit.utils.files import manifest, now, write_json

    started, names, done = now(), options.commands or list(SCENARIOS), []
    share = options.points and max(1, options.points // len(names))
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            done.append(check(name, options.kinds, share, Path(place)))
            if options.out:
                facts = {"points": sum(one.points for one in done), "commands": [asdict(one) for one in done]}
                facts["failures"] = sum(len(one.failures) for one in done)
                settings = {"commands": names, "kinds": list(options.kinds), "points": options.points}
                write_json(options.out, manifest("tools/file_faults.py", settings, started=started, **facts))
            if not done[-1].complete:
                break
    failures = sum(len(one.failures) for one in done)
    sys.exit(f"{failures} points fail" if failures else 0)


if __name__ == "__main__":
    main()

"""The run directory: what a run was begun with, and its checkpoints, written whole or not at all.

    RUN/config.json
    RUN/checkpoints/step-00001000/
        model.safetensors  ema.safetensors  optimizer.safetensors  state.json  checksums.json

Everything is gathered into full tensors with torch.distributed's state-dict functions, so a checkpoint does not depend
on how many processes wrote it or how they had sharded the model.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.training.config import Recipe, TrainConfig
from ifuvit.training.ema import EMA
from ifuvit.utils.config import from_dict, set_fields, to_dict
from ifuvit.utils.devices import use_bf16
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_directory,
    atomic_path,
    is_full_disk,
    is_present,
    read_json,
    sync_file,
    verify_checksums,
    write_checksums,
    write_json,
)

if TYPE_CHECKING:
    from ifuvit.data.encoded import EncodedDataset

# What a run was begun with.


def settle_precision(config: TrainConfig) -> TrainConfig:
    """`config` with a precision in place of "auto": that of the run in `out`, if there is one, else bf16 if the devices of all
    processes have instructions for it. All processes of a launch call it together."""
    if config.recipe.start.precision != "auto":
        return config
    processes, device = Processes.init()

    def choose() -> str:
        run = _directory(config.out).earlier()
        if run is not None:
            return run["config"]["recipe"]["start"]["precision"]
        return "bf16" if use_bf16("auto", device) else "fp32"

    # The smallest common one: processors of one launch may differ.
    return set_fields(config, precision="bf16" if set(processes.all_gather(choose)) == {"bf16"} else "fp32")


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """In the block no other process trains in this run directory.

    Raises:
        InputError: one does, or the directory holds something else.
    """
    with _directory(run).lock():
        yield


def claim(
    config: TrainConfig,
    dataset: "EncodedDataset",
    images: int,
    normalization: LatentNormalization,
    *,
    aligned_to: str | None = None,
) -> None:
    """Make the run directory, or check that the one there belongs to the same recipe and data.

    Args:
        config: `out` names the directory; a run that is there must have the same recipe, all else may differ.
        dataset: the training data.
        images: how many of them are trained on.
        normalization: of a new run; one that was begun keeps its own.
        aligned_to: fingerprint of the network that the middle block is aligned to, if it is.

    Raises:
        InputError: the directory holds something else, or a run of another recipe or other data.
    """
    recipe, earlier = to_dict(config.recipe), _directory(config.out).earlier()
    config_before = None if earlier is None else earlier.get("config")
    begun = config_before.get("recipe") if isinstance(config_before, Mapping) else None
    if isinstance(begun, Mapping):
        recipe = _recorded(recipe, begun, _completed(begun))
    _directory(config.out).begin(
        {
            "config": {"recipe": recipe},
            "dataset_fingerprint": dataset.fingerprint,
            "training_images": images,
            **({} if aligned_to is None else {"vision_network_fingerprint": aligned_to}),
        },
        config=to_dict(config),
        latent_normalization=to_dict(read_normalization(config.out) or normalization),
    )


def _recorded(mine: Mapping[str, Any], begun: Mapping[str, Any], completed: Mapping[str, Any]) -> dict[str, Any]:
    """`mine` without the fields that are newer than the record of a run and have their defaults."""
    found = {}
    for key, value in mine.items():
        if isinstance(value, Mapping) and isinstance(begun.get(key), Mapping):
            value = _recorded(value, begun[key], completed.get(key, {}))
        elif key not in begun and completed.get(key) == value:
            continue
        found[key] = value
    return found


def _completed(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recorded recipe with the defaults of fields that did not exist when it was written; as it is, where it has others that
    do not exist any more."""
    try:
        return to_dict(from_dict(Recipe, recipe))
    except InputError:
        return recipe


def read_normalization(run: Path) -> LatentNormalization | None:
    """The latent normalization of a run; None where there is no run yet.

    Raises:
        InputError: the directory holds something else.
    """
    record = _directory(run).earlier()
    if record is None:
        return None
    where = f"{run / 'config.json'}: latent_normalization"
    return from_dict(LatentNormalization, record.get("latent_normalization", {}), where=where)


def is_finished(config: TrainConfig) -> bool:
    """Whether `out` holds a run of this recipe that has reached its last step, and published what it has learned there. A
    precision of "auto" is any."""
    if not (config.out / "manifest.json").is_file() or published_step(config.out) != config.steps:
        return False
    manifest, mine = read_json(config.out / "manifest.json"), to_dict(config.recipe)
    if not isinstance(manifest, dict) or manifest.get("command") != "train" or manifest.get("steps") != config.steps:
        return False
    begun = manifest.get("config")
    theirs = begun.get("recipe") if isinstance(begun, dict) else None
    theirs = _completed(theirs) if isinstance(theirs, dict) else theirs
    if config.recipe.start.precision == "auto" and isinstance(theirs, dict) and isinstance(theirs.get("start"), dict):
        mine["start"]["precision"] = theirs["start"].get("precision")
    return theirs == mine


def published_step(run: Path) -> int | None:
    """The step of the weights in RUN/pipeline; None where there is none, or one that does not say."""
    file = run / "pipeline" / "training.json"
    facts = read_json(file) if file.is_file() else None
    return facts.get("steps") if isinstance(facts, dict) else None


def _directory(run: Path) -> OutputDirectory:
    return OutputDirectory(run, "train", record="config.json")


# Checkpoints.


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to resume: full tensors on the CPU, and the JSON values of state.json."""

    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """For each parameter NAME, entries "exp_avg.NAME", "exp_avg_sq.NAME" and "step.NAME" of AdamW, or "momentum_buffer.NAME"
    of Muon."""
    state: Mapping[str, Any]


Optimizers = Iterable[torch.optim.Optimizer]


def gather(model: nn.Module, ema: EMA, optimizers: Optimizers, state: Mapping[str, Any]) -> Checkpoint:
    """Collect a checkpoint. All processes call it together; the tensors are whole on rank 0."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    whole: Any = get_optimizer_state_dict(model, list(optimizers), options=_whole())
    moments: dict[str, dict[str, Tensor]] = whole.get("state", {})  # empty but on rank 0
    return Checkpoint(
        model=cast(Any, get_model_state_dict(model, options=_whole())),
        ema=gather_average(model, ema),
        optimizer={f"{key}.{name}": value for name, entry in moments.items() for key, value in entry.items()},
        state=state,
    )


def gather_average(model: nn.Module, ema: EMA, *, everywhere: bool = False) -> dict[str, Tensor]:
    """The averaged weights alone, likewise; or, with `everywhere`, whole on every process, on the model's device."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    with ema.applied():
        average: Any = get_model_state_dict(model, options=_whole(on_cpu=not everywhere))
        return {name: tensor.clone() for name, tensor in average.items()}


def _whole(*, on_cpu: bool = True) -> Any:
    """Full tensors; those on the CPU are rank 0's alone."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=on_cpu)


def restore(checkpoint: Checkpoint, model: nn.Module, ema: EMA, optimizers: Optimizers) -> None:
    """The inverse of `gather`, on every process.

    Raises:
        InputError: the tensors are not this model's.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    moments: dict[str, dict[str, Tensor]] = {}
    for entry, value in checkpoint.optimizer.items():
        key, name = entry.split(".", 1)
        moments.setdefault(name, {})[key] = value
    try:
        restore_average(model, ema, checkpoint.ema)
        set_model_state_dict(model, dict(checkpoint.model), options=options)
        groups = [group for optimizer in optimizers for group in _named_groups(model, optimizer)]
        whole: Any = {"state": moments, "param_groups": groups}
        set_optimizer_state_dict(model, list(optimizers), whole, options=options)
    except (RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"the checkpoint does not fit this model: {first}") from None


def restore_average(model: nn.Module, ema: EMA, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `gather_average`, on every process; the model is left with these weights."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(tensors), options=StateDictOptions(full_state_dict=True))
    with torch.no_grad():
        for average, parameter in zip(ema.average, ema.parameters, strict=True):
            average.copy_(parameter)


def _named_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    names = {parameter: name.removeprefix("module.") for name, parameter in model.named_parameters()}
    return [
        {**{k: v for k, v in group.items() if k != "params"}, "params": [names[p] for p in group["params"]]}
        for group in optimizer.param_groups
    ]


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints in a run, ascending. Copies that somebody made ("step-00001000.bak") are none.

    Raises:
        InputError: there may be some, and they cannot be seen.
    """
    directory, steps = run / "checkpoints", []
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if match := re.fullmatch(r"step-([0-9]{8,})", name):
                try:
                    (directory / name / "state.json").stat()
                    steps.append(int(match[1]))
                except (FileNotFoundError, NotADirectoryError):
                    continue
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unseen(Path(error.filename or directory), error) from None
    return sorted(steps)


def _unseen(path: Path, error: OSError) -> InputError:
    """What cannot be read is not taken for absent: training would begin again, and replace it."""
    return InputError(
        f"{path}: cannot be read ({error.strerror}); nothing was changed; make it readable, or move it away"
    )


def last_good(run: Path) -> str:
    """The last good checkpoint in words, for errors that end a run."""
    saved = saved_steps(run)
    return f"the last good checkpoint is step {saved[-1]}" if saved else "there is no checkpoint yet"


@contextmanager
def full_disk_as_error(run: Path, step: Callable[[], int]) -> Iterator[None]:
    """Let a full disk in the block end the run with one line that says what is lost and what is kept.

    Args:
        run: the run directory.
        step: returns the current step.

    Raises:
        InputError: in place of the error that a writer raised.
    """
    try:
        yield
    except Exception as error:
        if is_full_disk(error):
            raise InputError(
                f"{run}: the disk is full at step {step()} ({error}); {last_good(run)}. Nothing written before is lost; make "
                "room, and the same command resumes"
            ) from None
        raise


def write(run: Path, step: int, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, then `prune`: while one is written, its predecessor is still there. The run's log up to here is on
    the disk before.

    Raises:
        InputError: weights that are not finite.
    """
    from safetensors.torch import save_file

    for name, tensor in checkpoint.model.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{run}: {name} is not finite after step {step}; training has diverged; {last_good(run)}")
    if is_present(log := run / "metrics.jsonl"):
        sync_file(log)
    parts = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    with atomic_directory(path_of(run, step)) as temporary:
        for name, tensors in parts.items():
            save_file({key: t.contiguous() for key, t in tensors.items()}, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", dict(checkpoint.state))
        write_checksums(temporary, *(f"{name}.safetensors" for name in parts), "state.json")
    prune(run, step, keep=keep)
    return path_of(run, step)


def prune(run: Path, step: int, *, keep: int) -> None:
    """Delete all checkpoints up to `step` but the newest `keep` (at least 1), those of later steps (they are damaged ones
    that the run had to pass over), and what is left of ones that were not written or not deleted to the end."""
    saved = saved_steps(run)
    good = [s for s in saved if s <= step][-max(keep, 1) :]
    for path in [*(run / "checkpoints").glob(".step-*"), *(run / "checkpoints").glob("step-*")]:
        match = re.fullmatch(r"step-([0-9]{8,})", path.name)
        if path.name.startswith(".") or match and int(match[1]) not in good:
            shutil.rmtree(path, ignore_errors=True)


def read_newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, or None where there is none; and what was wrong with newer ones. A damaged one
    (truncated, or with other checksums than it was written with) is passed over for its predecessor.

    Raises:
        InputError: there are checkpoints, and all are damaged or one cannot be read.
    """
    problems: list[str] = []
    for step in reversed(saved_steps(run)):
        directory = path_of(run, step)
        try:
            return _read(directory, step), problems
        except (InputError, FileNotFoundError) as error:
            problems.append(f"{directory}: {error}")
        except OSError as error:
            raise _unseen(directory, error) from None
    if problems:
        raise InputError(f"no readable checkpoint: {problems[0]}; delete the damaged ones to begin again")
    return None, []


def _read(directory: Path, step: int) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_checksums(directory)
    state = read_json(directory / "state.json")
    if not isinstance(state, dict) or state.get("step") != step:
        raise InputError("its state.json is that of another step")
    try:
        parts = {name: load_file(directory / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}
    except SafetensorError as error:
        raise InputError(str(error)) from None
    return Checkpoint(**parts, state=state)


def trim_log(path: Path, step: int) -> None:
    """Cut metrics.jsonl back to what had been logged at `step`, so that a resumed run does not log twice. Lines that cannot be
    read are left out, as half a line from a kill in the middle of a write."""
    if not is_present(path):
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(kept))

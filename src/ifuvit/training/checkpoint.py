"""The run directory: what a run was begun with, and its checkpoints, written whole or not at all.

    RUN/config.json
    RUN/checkpoints/step-00001000/
        model.safetensors  ema.safetensors  optimizer.safetensors  state.json

Everything is gathered into full tensors with torch.distributed's state-dict functions, so a checkpoint does not depend
on how many processes wrote it or how they had sharded the model.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.training.config import TrainConfig
from ifuvit.training.ema import EMA
from ifuvit.utils.config import from_dict, set_fields, to_dict
from ifuvit.utils.devices import use_bf16
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_directory, is_full_disk, read_json, write_json, write_text

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


def claim(config: TrainConfig, dataset: "EncodedDataset", images: int, normalization: LatentNormalization) -> None:
    """Make the run directory, or check that the one there belongs to the same recipe and data.

    Args:
        config: `out` names the directory; a run that is there must have the same recipe, all else may differ.
        dataset: the training data.
        images: how many of them are trained on.
        normalization: of a new run; one that was begun keeps its own.

    Raises:
        InputError: the directory holds something else, or a run of another recipe or other data.
    """
    _directory(config.out).begin(
        {
            "config": {"recipe": to_dict(config.recipe)},
            "dataset_fingerprint": dataset.fingerprint,
            "training_images": images,
        },
        config=to_dict(config),
        latent_normalization=to_dict(read_normalization(config.out) or normalization),
    )


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
    """Whether `out` holds a run of this recipe that has reached its last step. A precision of "auto" is any."""
    if not (config.out / "manifest.json").is_file():
        return False
    manifest, mine = read_json(config.out / "manifest.json"), to_dict(config.recipe)
    if manifest.get("command") != "train" or manifest.get("steps") != config.steps:
        return False
    theirs = manifest["config"].get("recipe", {})
    if config.recipe.start.precision == "auto" and theirs:
        mine["start"]["precision"] = theirs["start"]["precision"]
    return theirs == mine


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
        set_model_state_dict(model, dict(checkpoint.ema), options=options)
        with torch.no_grad():
            for average, parameter in zip(ema.average, ema.parameters, strict=True):
                average.copy_(parameter)
        set_model_state_dict(model, dict(checkpoint.model), options=options)
        groups = [group for optimizer in optimizers for group in _named_groups(model, optimizer)]
        whole: Any = {"state": moments, "param_groups": groups}
        set_optimizer_state_dict(model, list(optimizers), whole, options=options)
    except (RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"the checkpoint does not fit this model: {first}") from None


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
    """Steps of the whole checkpoints in a run, ascending."""
    names = [path.parent.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*/state.json")]
    return sorted(int(name) for name in names if name.isdecimal())  # not copies that somebody made


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
    """Write a checkpoint, then delete all but the newest `keep` (at least 1): while one is written, its predecessor is
    still there. Later steps than this one are deleted too: they are damaged ones that the run had to pass over."""
    from safetensors.torch import save_file

    for left_over in (run / "checkpoints").glob(".step-*"):  # of a process that was killed while it wrote
        shutil.rmtree(left_over, ignore_errors=True)
    with atomic_directory(path_of(run, step)) as temporary:
        for name, tensors in (
            ("model", checkpoint.model),
            ("ema", checkpoint.ema),
            ("optimizer", checkpoint.optimizer),
        ):
            save_file({key: t.contiguous() for key, t in tensors.items()}, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", dict(checkpoint.state))
    saved = saved_steps(run)
    good = [s for s in saved if s <= step]
    for old in [s for s in saved if s not in good[-max(keep, 1) :]]:
        shutil.rmtree(path_of(run, old), ignore_errors=True)
    return path_of(run, step)


def read_newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a run that can be read, or None where there is none; and what was wrong with newer ones. A
    damaged one (a truncated file) is passed over for its predecessor.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problems: list[str] = []
    for step in reversed(saved_steps(run)):
        directory = path_of(run, step)
        try:
            whole = Checkpoint(
                model=load_file(directory / "model.safetensors"),
                ema=load_file(directory / "ema.safetensors"),
                optimizer=load_file(directory / "optimizer.safetensors"),
                state=read_json(directory / "state.json"),
            )
        except (SafetensorError, OSError, InputError) as error:
            problems.append(f"{directory}: {error}")
        else:
            return whole, problems
    if problems:
        raise InputError(f"no readable checkpoint: {problems[0]}; delete the damaged ones to begin again")
    return None, []


def trim_log(path: Path, step: int) -> None:
    """Cut metrics.jsonl back to what had been logged at `step`, so that a resumed run does not log twice. Lines that cannot be
    read are left out, as half a line from a kill in the middle of a write."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.decode() + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))

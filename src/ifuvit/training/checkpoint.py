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
from ifuvit.training.config import Recipe, TrainConfig
from ifuvit.training.distributed import flat
from ifuvit.training.ema import EMA
from ifuvit.utils.config import from_dict, set_fields, to_dict
from ifuvit.utils.devices import use_bf16
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_directory, is_full_disk, read_json, write_json

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
        record = _record(config.out)
        known = None if record is None else record["config"]["recipe"]["start"]["precision"]
        return known or ("bf16" if use_bf16("auto", device) else "fp32")

    # The smallest common one: processors of one launch may differ.
    return set_fields(config, precision="bf16" if set(processes.all_gather(choose)) == {"bf16"} else "fp32")


def claim(config: TrainConfig, dataset: "EncodedDataset", images: int, normalization: LatentNormalization) -> None:
    """Make the run directory, or check that the one there belongs to the same recipe and data.

    Args:
        config: `out` names the directory; of a run that is there it must have the recipe, all else may differ.
        dataset: the training data.
        images: how many of them are trained on.
        normalization: of a new run; one that was begun keeps its own.

    Raises:
        InputError: the directory holds something else, or a run of another recipe or other data.
    """
    theirs = _record(config.out)
    if theirs is None:
        if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
            raise InputError(f"{config.out}: exists and is not a training run; give another --out")
        (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        kept = to_dict(normalization)
    else:
        kept = theirs["latent_normalization"]
        difference = recipe_difference(theirs["config"]["recipe"], config.recipe)
        if difference is not None:
            name, was, asked = difference
            raise InputError(f"{config.out}: that run was begun with {name} {was}, not {asked}; give another --out")
        if theirs["dataset"] != dataset.fingerprint:
            raise InputError(
                f"{config.out}: that run was begun with another data set than {config.data.data}; give another --out"
            )
        if theirs["training_images"] != images:
            raise InputError(
                f"{config.out}: that run was begun with {theirs['training_images']} images to train on, not {images}; "
                "give the same --val-data or --validation-images, or another --out"
            )
    record = (to_dict(config), dataset.fingerprint, images, kept)
    write_json(config.out / "config.json", dict(zip(_RECORD, record, strict=True)))


_RECORD = ("config", "dataset", "training_images", "latent_normalization")


def _record(run: Path) -> dict[str, Any] | None:
    """RUN/config.json, or None where there is none.

    Raises:
        InputError: it is not that of a run.
    """
    if not (run / "config.json").is_file():
        return None
    record = read_json(run / "config.json")
    if not (isinstance(record, dict) and tuple(record) == _RECORD):
        raise InputError(f"{run}: exists and is not a training run of this version; give another --out")
    return record


def read_normalization(run: Path) -> LatentNormalization | None:
    """The latent normalization of a run; None where there is none yet."""
    record = _record(run)
    if record is None:
        return None
    where = f"{run / 'config.json'}: latent_normalization"
    return from_dict(LatentNormalization, record["latent_normalization"], where=where)


def recipe_difference(theirs: Mapping[str, Any], mine: Recipe) -> tuple[str, Any, Any] | None:
    """The first field in which a recorded recipe differs from another one: its name and both values; None where they are the
    same."""
    was, asked = flat(theirs), flat(to_dict(mine))
    for path in dict.fromkeys([*asked, *was]):
        if was.get(path) != asked.get(path):
            section, _, name = path.rpartition("/")
            return (section if name == "name" else name), was.get(path), asked.get(path)
    return None


def is_finished(config: TrainConfig) -> bool:
    """Whether `out` holds a run of this recipe that has reached its last step. A precision of "auto" is any."""
    manifest = config.out / "manifest.json"
    if not manifest.is_file():
        return False
    record = read_json(manifest)
    if record.get("command") != "train" or "recipe" not in record["config"]:
        return False
    recipe = config.recipe
    if recipe.start.precision == "auto":
        recipe = set_fields(recipe, precision=record["config"]["recipe"]["start"]["precision"])
    return record["steps"] == config.steps and recipe_difference(record["config"]["recipe"], recipe) is None


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
    found = (run / "checkpoints").glob("step-*/state.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def last_good(run: Path) -> str:
    """The last good checkpoint in words, for errors that end a run."""
    saved = saved_steps(run)
    return f"the last good checkpoint is step {saved[-1]}" if saved else "there is no checkpoint yet"


@contextmanager
def full_disk_told(run: Path, step: Callable[[], int]) -> Iterator[None]:
    """Let a full disk in the block end the run with one line that says what is lost and what is kept.

    Args:
        run: the run directory.
        step: tells the present step.

    Raises:
        InputError: in place of the error that a writer raised.
    """
    try:
        yield
    except Exception as error:
        if is_full_disk(error):
            raise InputError(
                f"{run}: the disk is full at step {step()} ({error}); {last_good(run)}. Nothing written before is lost; make room, and the "
                "same command resumes"
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
    """Cut metrics.jsonl back to what had been logged at `step`, so that a resumed run does not log twice."""
    if not path.is_file():
        return
    from ifuvit.utils.files import write_text

    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            break  # half a line, from a kill in the middle of a write
    write_text(path, "".join(kept))

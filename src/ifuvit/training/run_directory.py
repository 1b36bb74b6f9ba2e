"""The run directory's record of what it was begun with."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ifuvit.training.config import FREE_FIELDS, TrainConfig
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import use_bf16
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, write_json

if TYPE_CHECKING:
    from ifuvit.data.encoded import EncodedDataset


def settle_precision(config: TrainConfig) -> TrainConfig:
    """`config` with a precision in place of "auto": that of the run there, if one was begun, else bf16 if the devices of all
    processes have instructions for it. All processes of a launch call it together."""
    if config.precision != "auto":
        return config
    processes, device = Processes.init()

    def choose() -> str:
        record = config.out / "config.json"
        begun = read_json(record) if record.is_file() else None
        known = begun.get("config", {}).get("precision") if isinstance(begun, dict) else None
        return known if known in ("fp32", "bf16") else "bf16" if use_bf16("auto", device) else "fp32"

    # The smallest common one: processors of one launch may differ.
    return replace(config, precision="bf16" if set(processes.all_gather(choose)) == {"bf16"} else "fp32")


def claim(config: TrainConfig, features: "EncodedDataset", images: int) -> None:
    """Make the run directory, or see that the one there belongs to this configuration and these data.

    Args:
        config: `out` names the directory; `FREE_FIELDS` may differ from what the run was begun with.
        features: the training data.
        images: how many of them are trained on.

    Raises:
        InputError: the directory holds something else, or a run of other settings or data.
    """
    record = config.out / "config.json"
    mine = {"config": to_dict(config), "features": features.fingerprint, "training_images": images}
    if not record.is_file():
        if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
            raise InputError(f"{config.out}: exists and is no training run; give another --out")
        (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(record, mine)
        return
    theirs = read_json(record)
    if not (isinstance(theirs, dict) and theirs.keys() == mine.keys()):
        raise InputError(f"{config.out}: exists and is no training run; give another --out")
    for name in [field.name for field in fields(config) if field.name not in FREE_FIELDS]:
        if theirs["config"].get(name) != mine["config"][name]:
            was, asked = _difference(theirs["config"].get(name), mine["config"][name])
            raise InputError(f"{config.out}: that run was begun with {name} {was}, not {asked}; give another --out")
    if theirs["features"] != mine["features"]:
        raise InputError(f"{config.out}: that run was begun with other features than {config.data}; give another --out")
    if theirs["training_images"] != images:
        raise InputError(
            f"{config.out}: that run was begun with {theirs['training_images']} images to train on, not {images}; "
            "give the same --val-data or --validation-images, or another --out"
        )
    write_json(record, mine)


def _difference(theirs: Any, mine: Any) -> tuple[Any, Any]:
    if not (isinstance(theirs, Mapping) and isinstance(mine, Mapping)):
        return theirs, mine
    differing = [key for key in mine if theirs.get(key) != mine[key]]
    return {key: theirs.get(key) for key in differing}, {key: mine[key] for key in differing}

"""What it costs a training that its checkpoints are on the disk before they take their names.

    python tools/sync_cost.py RESULT.json [DIRECTORY]     of DIRECTORY's file system; default: the working directory's

Saves what a run of the default preset saves, five times, and counts the seconds in `fsync`. They are compared with the time of
the default interval between two checkpoints, at the speed at which the shipped model was trained.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from ifuvit import IFUViT, presets
from ifuvit.training import checkpoint
from ifuvit.training.config import default_config
from ifuvit.utils.files import atomic_directory, manifest, now, read_json, write_json

PRESET, ROUNDS = "openmoji-cross-intermediate", 5
TRAINING = Path(__file__).parents[1] / "results" / PRESET / "then-9000-steps" / "manifest.json"


class Syncs:
    """Times all calls of `os.fsync` from now on."""

    def __init__(self) -> None:
        self.seconds, self.calls, plain = 0.0, 0, os.fsync

        def fsync(descriptor: int) -> None:
            begun = time.monotonic()
            plain(descriptor)
            self.seconds += time.monotonic() - begun
            self.calls += 1

        os.fsync = fsync


def main() -> None:
    """Entry point."""
    started, model = now(), IFUViT(presets[PRESET])
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    moments = {
        f"{key}.{name}": torch.randn_like(one) for name, one in weights.items() for key in ("exp_avg", "exp_avg_sq")
    }
    syncs, rounds = Syncs(), []
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else ".") as place:
        for step in range(ROUNDS):
            begun, before = time.monotonic(), syncs.seconds
            state = checkpoint.Checkpoint(model=weights, ema=weights, optimizer=moments, state={"step": step})
            checkpoint.write(Path(place), step, state, keep=2)
            with atomic_directory(Path(place, "pipeline")) as pipeline:
                model.save_pretrained(pipeline / "transformer")
            rounds.append({"saving": time.monotonic() - begun, "of_it_syncing": syncs.seconds - before})
    config, training = default_config(PRESET, data=Path("data"), out=Path("run")), read_json(TRAINING)
    interval = config.checkpoints.save_every * training["training_seconds"] / training["steps"]
    share = statistics.median(one["of_it_syncing"] for one in rounds) / interval
    print(
        f"{share:.2%} of a training that saves every {config.checkpoints.save_every} steps ({interval:.0f} s), {rounds}"
    )
    facts = {
        "rounds": rounds,
        "interval_seconds": interval,
        "save_every": config.checkpoints.save_every,
        "share": share,
    }
    write_json(Path(sys.argv[1]), manifest("tools/sync_cost.py", {"preset": PRESET}, started=started, **facts))


if __name__ == "__main__":
    main()

"""What the training aids and path-drop guidance cost, in processor time: `python tools/aids_time.py OUT.json`.

Time of the process, not of the clock, so that other work on the machine matters little; one thread, the openmoji preset, the shipped
autoencoder; the least of some repetitions.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.training import random_batch, step_config
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.flops import cost_of
from ifuvit.model.presets import presets
from ifuvit.model.uvit import IFUViT
from ifuvit.training.alignment import Alignment, FrozenFeatures
from ifuvit.training.step import TrainingStep

BATCH, REPETITIONS, SCALE = 16, 5, 4.0
CPU = torch.device("cpu")


def seconds(work: Callable[[], object]) -> float:
    """The least processor time of a call, after one that is not counted."""
    work()
    least = float("inf")
    for _ in range(REPETITIONS):
        begun = time.process_time()
        work()
        least = min(least, time.process_time() - begun)
    return round(least, 4)


def training_step(**settings: object) -> float:
    """Of one step with these settings of the recipe."""
    model = presets["openmoji-cross-intermediate"]
    config = step_config(model, batch_size=BATCH, precision="fp32", **settings)
    torch.manual_seed(0)
    backbone, alignment = IFUViT(model), None
    if config.recipe.alignment.align_to is not None:
        features = FrozenFeatures(config.recipe.alignment.align_to, CPU)
        alignment = Alignment(features, Autoencoder.from_pretrained("openmoji"), LatentNormalization(scale=(1.0,)))
        alignment.attach(backbone)
    step = TrainingStep(config, backbone, make_accelerator("fp32", CPU), alignment=alignment)
    batch = random_batch(model, BATCH, seed=0, device=CPU)
    return seconds(lambda: step(batch, 0))


def guided_step(*, path_drop: bool) -> dict[str, object]:
    """Of one guided sampling step, with its counted GFLOPs an image."""
    config = replace(presets["openmoji-cross-intermediate"], path_drop=path_drop)
    model, batch = IFUViT(config).eval(), random_batch(config, BATCH, seed=0, device=CPU)
    with torch.no_grad():
        text = model.encode_text(batch["text_embeddings"].float(), batch["text_mask"])
        null = text.rows(torch.tensor([0]))
        took = seconds(lambda: model.guided(batch["latents"], torch.full((BATCH,), 500.0), text, null, SCALE))
    return {"seconds": took, "gflops": cost_of(config)["guided_step_gflops"]["shared"]}


def main() -> None:
    torch.set_num_threads(1)
    told = {
        "about": f"processor seconds on one thread, batch {BATCH}, openmoji-cross-intermediate in fp32, AdamW",
        "training step": {
            "plain": training_step(),
            "power averages": training_step(power_ema=(0.05, 0.1)),
            "aligned to effnet-lite0": training_step(align_to="effnet-lite0"),
        },
        "guided step": {"plain": guided_step(path_drop=False), "path-drop": guided_step(path_drop=True)},
        "torch": torch.__version__,
    }
    Path(sys.argv[1]).write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

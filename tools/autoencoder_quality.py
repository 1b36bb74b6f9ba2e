"""How near real images come out of an autoencoder, written to a JSON file: the figures of its model card.

1,000 validation scenes are encoded and decoded, and compared with 1,000 others: PSNR, KID over EfficientNet-Lite0, precision,
recall, the images in which the shipped counter finds exactly what is there (before and after), the correlation of neighboring
latent cells by channel, and the time of decoding 16 images.

Usage: python tools/autoencoder_quality.py SCENES OUT.json [AUTOENCODER ...]
SCENES: `ifuvit scenes --out SCENES --train 40000 --val 2000 --seed 1`
"""

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ifuvit.data.images import to_images, to_tensor
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.evaluation.networks import load_counter
from ifuvit.metrics.distances.feature_networks import load_feature_network
from ifuvit.metrics.distances.frechet import kernel_distance, precision_recall
from ifuvit.standins.autoencoder import psnr
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import write_json

IMAGES = 1_000


def contents(scenes: Path) -> list[Counter[str]]:
    """How many objects of which kind each validation scene has."""
    instances = json.loads((scenes / "annotations" / "instances_val.json").read_text())
    kinds = {entry["id"]: entry["name"] for entry in instances["categories"]}
    objects: dict[int, Counter[str]] = defaultdict(Counter)
    for entry in instances["annotations"]:
        objects[entry["image_id"]][kinds[entry["category_id"]]] += 1
    return [objects[image["id"]] for image in instances["images"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("autoencoders", nargs="*", default=["openmoji", "openmoji-4"])
    arguments = parser.parse_args()
    files = sorted((arguments.scenes / "images" / "val").glob("*.png"))[: 2 * IMAGES]
    assert len(files) == 2 * IMAGES, "requires 2,000 validation scenes"
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    network, counter, truth = load_feature_network("effnet-lite0"), load_counter(), contents(arguments.scenes)[IMAGES:]

    def features(images: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(64)
        return np.concatenate([network(batch).numpy() for batch in batches])

    def compared(images: np.ndarray) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{place:04d}.png") for place in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path)
            found = counter.find(paths, [None] * len(paths), threshold=counter.threshold)
        mine = features(images)
        precision, recall = precision_recall(reference, mine)
        exact = sum(Counter(one.kind for one in objects) == true for objects, true in zip(found, truth, strict=True))
        kid = to_dict(kernel_distance(reference, mine))
        return {"kid_effnet_lite0": kid, "precision": precision, "recall": recall, "exactly_counted": exact}

    reference = features(pixels[:IMAGES])
    result: dict[str, Any] = {"images": IMAGES, "real images": compared(pixels[IMAGES:])}
    for name in arguments.autoencoders:
        autoencoder = Autoencoder.from_pretrained(name)
        targets = to_tensor(pixels[IMAGES:]).split(50)
        decoded = np.concatenate([to_images(autoencoder.reconstruct(batch)) for batch in targets])
        error = (to_tensor(decoded) - to_tensor(pixels[IMAGES:])).square().mean().item()
        latents = torch.cat([autoencoder.moments(batch)[:, : autoencoder.channels] for batch in targets])
        begun = time.monotonic()
        autoencoder.decode(latents[:16])
        seconds = time.monotonic() - begun
        result[name] = {
            "fingerprint": autoencoder.fingerprint,
            "psnr": psnr(error),
            **compared(decoded),
            "neighbors": neighbors(latents),
            "seconds_for_16": seconds,
            "threads": torch.get_num_threads(),
        }
    write_json(arguments.out, result)


def neighbors(latents: Tensor) -> list[float]:
    """The correlation of horizontally neighboring cells, by channel: (B, C, h, w) -> C numbers."""
    flat = [(channel[..., 1:].flatten(), channel[..., :-1].flatten()) for channel in latents.transpose(0, 1)]
    return [torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in flat]


if __name__ == "__main__":
    main()

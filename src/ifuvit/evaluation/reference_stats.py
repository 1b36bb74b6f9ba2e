"""`ifuvit reference-stats`: features of the real images, summed up once for all evaluations against them."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ifuvit.data.images import SUFFIXES, ImageSource
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now, package_version


@dataclass(frozen=True, kw_only=True)
class ReferenceStatsConfig:
    """Mean and covariance of the features of real images, as a .npz file like pytorch-fid's."""

    out: Path
    """The file to write: mu, sigma, the number of images n, and facts on how it was made, as JSON."""
    data: Path | None = None
    """Real images: what `ifuvit scenes` wrote, MS-COCO unpacked, or a folder of captioned images."""
    split: str = "val"
    """Which split of --data."""
    images: Path | None = None
    """Instead of --data: a directory of images without captions, those in directories below it too."""
    captions: Path | None = None
    """Take only those of --images that this annotation file of MS-COCO's layout lists."""
    network: Literal["effnet-lite0", "inception", "dinov2", "clip"] = "effnet-lite0"
    """Feature network."""
    weights: str | None = None
    """Its weights: a file for effnet-lite0 and inception (or `fetch`), a folder or hub id for dinov2 and clip."""
    resize: Literal["network", "clean"] = "network"
    """How images come to the network's input: its own way, or clean-fid's antialiased bicubic."""
    size: int | None = None
    """Crop images to the centered square and resize them to so many pixels (Lanczos) first; by default they are taken
    as they are. It has to be what generated images are compared at."""
    keep_features: bool = False
    """Write the features too (4 bytes x images x dimensions), so that KID, precision and recall can be had as well."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 4
    """Threads that read images."""
    device: str = "auto"
    """Where the network runs: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.images is None):
            raise InputError("give either --data or --images")
        if self.captions is not None and self.images is None:
            raise InputError("--captions goes with --images; --data finds its own captions")
        for name in ("size", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.out.suffix != ".npz":
            raise InputError(f"--out {self.out}: statistics are written as .npz; give a name that ends so")


def run(config: ReferenceStatsConfig) -> Path:
    """Compute the statistics and return the file. Under `torchrun` or `accelerate launch` the processes share the
    images, and the first one writes.

    Raises:
        InputError: no such images or fewer than two, a broken one, or weights that are not to be had.
    """
    files, described = list_images(config)
    if len(files) < 2:
        raise InputError(f"{described['where']}: {len(files)} usable images; statistics need at least 2")
    # Imported late: torch takes seconds, which a mistyped path should not cost.
    from ifuvit.metrics.distances.feature_networks import extract_features, extract_statistics, load_feature_network
    from ifuvit.metrics.distances.frechet import FeatureStatistics
    from ifuvit.utils.distributed import Processes

    processes, own = Processes.init()
    device = own if config.device == "auto" and processes.count > 1 else find_device(config.device)
    network = load_feature_network(config.network, weights=config.weights, resize=config.resize, device=device)
    features = None
    if config.keep_features:
        features = extract_features(
            network,
            files,
            size=config.size,
            batch_size=config.batch_size,
            workers=config.workers,
            progress=True,
        )
        statistics = FeatureStatistics.of(features)
    else:
        statistics = extract_statistics(
            network,
            files,
            size=config.size,
            batch_size=config.batch_size,
            workers=config.workers,
            progress=True,
        )
    if processes.first:
        facts = {
            "command": "reference-stats",
            "ifuvit_version": package_version(),
            "config": to_dict(config),
            "network": network.facts(),
            "size": config.size,
            "data": described,
            "made": now(),
        }
        statistics.save(config.out, facts=facts, features=features)
    processes.wait()
    return config.out


def list_images(config: ReferenceStatsConfig) -> tuple[Sequence[ImageSource], dict[str, Any]]:
    """The images, and where they come from as a result tells it."""
    if config.data is not None:
        from ifuvit.evaluation.reference_images import ReferenceImages

        real = ReferenceImages.open(config.data, split=config.split)
        return real.files, {
            "where": str(config.data),
            "split": real.split,
            "images": len(real),
            "sha256": real.fingerprint,
        }
    assert config.images is not None
    if config.captions is not None:
        from ifuvit.data.coco import read_coco

        listed = read_coco(config.images, config.captions)
        files = [image.source for image in listed if image.problem is None and isinstance(image.source, Path)]
    else:
        files = _images_below(config.images)
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr((file.relative_to(config.images).as_posix(), file.stat().st_size)).encode())
    return files, {"where": str(config.images), "split": "", "images": len(files), "sha256": digest.hexdigest()}


def _images_below(directory: Path) -> list[Path]:
    """Image files in a directory and below, in the order of their paths; names that begin with a dot are passed over.

    Raises:
        InputError: no such directory, or a file in it is no image (a text of the same name beside a image may be).
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory of images")
    files: list[Path] = []
    for place, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    images = sorted(file for file in files if file.suffix.lower() in SUFFIXES)
    captioned = {file.with_suffix(".txt") for file in images}
    for file in sorted(files):
        if file.suffix.lower() not in SUFFIXES and file not in captioned and file.suffix not in (".json", ".jsonl"):
            raise InputError(f"{file}: not a image ({', '.join(sorted(SUFFIXES))}); move it out of the directory")
    if not images:
        raise InputError(f"{directory}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return images

"""`ifuvit scenes`: draw OpenMoji Scenes, the embedded data set, in MS-COCO's layout."""

from dataclasses import dataclass
from pathlib import Path

from ifuvit.data.scenes import openmoji_version, write_scenes
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import now, sha256, write_manifest


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Draw images of 1 to 5 emoji, or of two with a spatial relation, with five captions each.

    Example:
        ifuvit scenes --out scenes --train 2000 --val 200
    """

    out: Path
    """Directory to write: images/, annotations/, held_out.json, ATTRIBUTION.txt, manifest.json."""
    size: int = 64
    """Side of the square images in pixels, 32 or more."""
    train: int = 20_000
    """Number of training images."""
    val: int = 2_000
    """Number of validation images, of which about a quarter show combinations held out of training."""
    seed: int = 0
    """The same seed gives the same images; a longer set begins with the shorter one."""
    relations: float = 0.25
    """Share of the training images that show two kinds with a relation."""


def run(config: ScenesConfig) -> Path:
    """Draw the scenes and return their directory.

    Raises:
        InputError: a number out of range, a directory that holds something else, or a missing package.
    """
    started = now()
    out = write_scenes(
        config.out,
        size=config.size,
        train=config.train,
        val=config.val,
        seed=config.seed,
        relations=config.relations,
        progress=True,
    )
    annotations = sorted((out / "annotations").glob("*.json"))
    write_manifest(
        out,
        "scenes",
        to_dict(config),
        started=started,
        seed=config.seed,
        openmoji=openmoji_version(),
        annotations={path.name: sha256(path) for path in annotations},
    )
    return out

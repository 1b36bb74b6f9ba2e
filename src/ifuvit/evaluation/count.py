"""`ifuvit count`: prompts to count by, and judging images by an object counter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ifuvit.metrics.counting.prompts import PromptSet
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest, now, read_json, sha256, write_json

JUDGE = "count judge"


@dataclass(frozen=True, kw_only=True)
class CountPromptsConfig:
    """Print a set of prompts, one a line, for `ifuvit generate --prompts-file`."""

    set: Positional[PromptSet]
    """paper: bus, sheep, person and apple, one to five each (20 prompts). all-kinds: the same of all 42 kinds of OpenMoji
    Scenes (210). relations: pairs of kinds in four relations (100). held-out: what no training scene shows (99). coco: for
    photographs, one to five of 77 kinds of MS-COCO (385)."""


@dataclass(frozen=True, kw_only=True)
class CountJudgeConfig:
    """Judge by an object counter, or on photographs by a detector, whether images show what their prompts ask for."""

    images: Positional[Path]
    """Directory that `ifuvit generate` wrote."""
    out: Path
    """JSON file to write."""
    counter: str = "openmoji"
    """Of OpenMoji Scenes' kinds: the shipped one's name, or a directory that `ifuvit make-standin counter` wrote."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """For photographs, instead of a counter: a zero-shot detector of transformers, by folder or hub id, as
    google/owlv2-base-patch16-ensemble. It evaluators prompts like "two dogs" of any kind."""
    threshold: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Least score of a detector's box that counts; fix it before you see the result. Default: 0.1 for OWLv2, 0.25 for
    Grounding DINO."""
    thresholds: tuple[float, ...] = ()
    """Least scores of an object to tell the main scores for as well, beside the reported ones."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a directory; give the name of a JSON file")
        for threshold in self.thresholds:
            if not 0 < threshold < 1:
                raise InputError(f"--thresholds {threshold}: must be between 0 and 1")


def judge(config: CountJudgeConfig) -> Path:
    """Judge images, and return the JSON file that was written.

    Raises:
        InputError: images or a counter that are missing or broken, or a place that cannot be written.
    """
    from ifuvit.metrics.counting.counters import count_images, open_counter

    started = now()
    files, prompts = read_generated(config.images)
    device = find_device(config.device)
    counter = open_counter(config.counter, detector=config.detector, threshold=config.threshold, device=device)
    result = manifest(
        JUDGE,
        to_dict(config),
        started=started,
        **count_images(files, prompts, counter, thresholds=config.thresholds),
        generated={
            "directory": str(config.images),
            "manifest_sha256": sha256(config.images / "manifest.json"),
        },
    )
    write_json(config.out, result)
    return config.out


def read_generated(directory: Path) -> tuple[list[Path], list[str]]:
    """The file and the prompt of every image that `ifuvit generate` wrote.

    Raises:
        InputError: the directory is of another origin.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; give one that `ifuvit generate` wrote")
    facts = read_json(directory / "manifest.json")
    try:
        if facts["command"] != "generate":
            raise InputError(
                f"{directory}: written by `ifuvit {facts['command']}`; give a directory of `ifuvit generate`"
            )
        listed = [(directory / str(image["file"]), str(image["prompt"])) for image in facts["images"]]
    except (KeyError, TypeError):
        raise InputError(f"{directory / 'manifest.json'}: not of `ifuvit generate`; it lists no images") from None
    if not listed:
        raise InputError(f"{directory / 'manifest.json'}: lists no images")
    return [file for file, _ in listed], [prompt for _, prompt in listed]

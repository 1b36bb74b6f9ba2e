"""Evaluation protocols: every choice that changes a number, fixed under a name.

A result carries all of these fields. Where one is changed (`ifuvit evaluate --num-images 200`), the name of the result's
protocol says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ifuvit.data.prompts import PromptSet
from ifuvit.diffusion.settings import PAPER_EVALUATION_SETTINGS, SamplingSettings
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How images are drawn and what they are compared with."""

    name: str
    """What the result calls it."""
    num_images: int
    """Images drawn: one random caption of each of so many random real images, none repeated."""
    split: str = "val"
    """The real images' split."""
    caption_seed: int = 0
    """Of the choice of images and captions."""
    reference: Literal["captioned", "all"] = "captioned"
    """Reference images of the distances: those whose captions are generated, or the whole split."""
    size: int | None
    """Real and drawn images are cropped to the centered square and resized to so many pixels (Lanczos) before anything
    else; images of that size already stay as they are."""
    networks: tuple[Literal["effnet-lite0", "inception", "dinov2", "clip"], ...]
    """Feature networks of the distances; see `ifuvit.metrics.distances.feature_networks`."""
    resize: Literal["network", "clean"] = "network"
    """How images come to a feature network's input: its own way, or clean-fid's antialiased bicubic."""
    alignment: tuple[Literal["two-tower", "clip"], ...]
    """Models of text-image alignment; see `ifuvit.metrics.alignment.clip`."""
    prefix: str = ""
    """What the alignment model reads before every caption."""
    sampling: SamplingSettings = PAPER_EVALUATION_SETTINGS
    """How images of captions are sampled; those of counting prompts with `count_guidance_scale`."""
    seed: int = 0
    """Image i starts from noise of (seed, i)."""
    count_prompts: tuple[tuple[PromptSet, int], ...] = (("paper", 10),)
    """Sets of counting prompts (see `ifuvit.metrics.counting.prompts`) with the images drawn a prompt; the paper has 10."""
    counts_scenes: bool = False
    """Whether objects are counted by the counter of OpenMoji Scenes' kinds; otherwise that takes a detector."""
    count_guidance_scale: float = 4.0
    """The standard w of the counting prompts' images; the paper's images have s = w - 1 = 3."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise InputError(f"--num-images {self.num_images}: must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")
        _ = self.count_sampling  # refuses an impossible scale

    def weights(self, items: Sequence[str], *, option: str = "--weights") -> dict[str, str]:
        """Where the weights of this protocol's networks lie, by the networks' names.

        Args:
            items: texts like "inception=FILE.pth".
            option: where they were given, for the error.

        Raises:
            InputError: one is of another form, or of a network that the protocol does not use, or given twice.
        """
        known, found = dict.fromkeys((*self.networks, *self.alignment)), {}
        for item in items:
            name, _, path = item.partition("=")
            if not name or not path:
                raise InputError(f"{option} {item}: give NAME=PATH, as inception=pt_inception-2015-12-05-6726825d.pth")
            if name not in known:
                raise InputError(
                    f"{option} {item}: {name} is no network of the protocol {self.name}, which uses {', '.join(known)}"
                )
            if name in found:
                raise InputError(f"{option} {item}: {name} is given twice")
            found[name] = path
        return found

    @property
    def count_sampling(self) -> SamplingSettings:
        """How images of counting prompts are sampled."""
        return self.sampling.changed(guidance_scale=self.count_guidance_scale)


def _skills(times: int, *, held_out_counts: int, relations: int | None = None) -> tuple[tuple[PromptSet, int], ...]:
    """All skills. Sets and their paraphrases have as many images each, so that these pair by their noise."""
    return (
        ("paper", 10 * times),
        ("grounds", 1),
        ("relations", relations or times),
        ("held-out-counts", held_out_counts),
        ("held-out-relations", times),
        ("paraphrases", times),
        ("relation-paraphrases", relations or times),
    )


protocols: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            # The embedded one: minutes on two CPU cores, no weights from anywhere else.
            Protocol(
                name="quick",
                num_images=1000,
                size=64,
                networks=("effnet-lite0",),
                alignment=("two-tower",),
                sampling=SamplingSettings(steps=25, guidance_scale=2.0),
                count_prompts=_skills(1, held_out_counts=5),
                counts_scenes=True,
            ),
            # The same with enough images that a skill is known to a few percent: 2,135 instead of 921.
            Protocol(
                name="skills",
                num_images=1000,
                size=64,
                networks=("effnet-lite0",),
                alignment=("two-tower",),
                sampling=SamplingSettings(steps=25, guidance_scale=2.0),
                count_prompts=_skills(2, held_out_counts=11, relations=4),
                counts_scenes=True,
            ),
            # U-ViT's FID-30K on MS-COCO val2014, as its code at ce55170 does it, and the paper's CLIP score.
            Protocol(
                name="paper",
                num_images=30_000,
                reference="all",
                size=256,
                networks=("inception",),
                alignment=("clip",),
            ),
            # The same captions and images through clean-fid's resize, which does not depend on a library's version.
            Protocol(
                name="clean",
                num_images=30_000,
                reference="all",
                size=256,
                networks=("inception",),
                resize="clean",
                alignment=("clip",),
            ),
        )
    }
)

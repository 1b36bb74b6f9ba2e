"""The configuration of `ifuvit prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from tyro.conf import OmitArgPrefixes

from ifuvit.data.sources import Source
from ifuvit.utils.errors import InputError

S = TypeVar("S", bound=Source)

MINILM_LAYERS = (0, 3, 6)
"""The layers of "minilm" that the `openmoji-` presets are conditioned on."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Generic[S]):
    """Encode images and captions into a data set for training. An interrupted preparation resumes where it stopped."""

    source: Annotated[S, OmitArgPrefixes]
    out: Path
    """Directory of the encoded data set."""
    autoencoder: str = "openmoji"
    """Encodes the images: a shipped name, a diffusers folder or hub id, or a trained stand-in."""
    text_encoder: str = "minilm"
    """Encodes the captions: "minilm", "clip-vit-large-patch14", or the folder or hub id of a CLIP text model, a T5 or a
    BERT-like model."""
    text_layer: tuple[int, ...] | None = None
    """Layers of the text encoder whose states are the embeddings, side by side: 0 is its input, -1 the last. Default: the
    last, as in the paper; 0 3 6 for "minilm", whose last layer hardly tells which of two objects is where."""
    max_tokens: int | None = None
    """Tokens of a caption, special ones included; longer captions are cut. Default: the text encoder's own limit."""
    size: int | None = None
    """Pixels of a side after the square center crop; a multiple of the autoencoder's factor. Default: the size that the
    autoencoder was trained on, as its config.json says (64 for "openmoji"), but 256 at most."""
    aspect: Literal["crop", "pad"] = "crop"
    """What becomes of images that are not square: crop is the largest centered square, as in the paper; pad is the whole image
    on a white square. There are no aspect-ratio buckets: latents, and the positions that the backbone learns, are square."""
    text: Literal["embeddings", "tokens"] | None = None
    """Store text embeddings (large; training reads them) or token ids (small; training runs the text encoder). Default:
    embeddings, unless they would take more than 10 GB: then the command prints both sizes and asks for a choice."""
    batch_size: int = 64
    """Images, and captions, encoded at a time."""
    shard_size: int | None = None
    """Rows of a file; also the most that is lost when the command is killed. Default: 1024, or more where that would
    make more than 256 files."""
    max_skipped: int | None = None
    """Broken images and empty captions to tolerate. Default: 1 % of the number of images, but at least 10."""
    workers: int = 4
    """Threads that read images."""
    device: str = "auto"
    """Where the encoders run: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""

    @property
    def text_layers(self) -> tuple[int, ...]:
        """`text_layer`, or the text encoder's default; () for the last."""
        if self.text_layer is not None:
            return self.text_layer
        return MINILM_LAYERS if self.text_encoder == "minilm" else ()

    def __post_init__(self) -> None:
        for name in ("max_tokens", "size", "batch_size", "shard_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.max_skipped is not None and self.max_skipped < 0:
            raise InputError(f"--max-skipped {self.max_skipped}: must be at least 0")

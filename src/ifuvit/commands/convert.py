"""`ifuvit convert`: turn an official U-ViT checkpoint into a model directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ifuvit.utils.command_line import parse
from ifuvit.utils.config import Positive, check, to_dict
from ifuvit.utils.files import OutputDirectory, now, sha256, write_manifest


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Read a text-to-image U-ViT state dict (github.com/baofff/U-ViT) and write a pipeline directory. Everything about
    the network but the number of heads is inferred from the shapes; the encoders are referred to, not copied.

    Example:
        ifuvit convert uvit mscoco_uvit_small.pth models/uvit --heads 8
    """

    format: Positional[Literal["uvit"]]
    """What the checkpoint is."""
    checkpoint: Positional[Path]
    """The file, such as mscoco_uvit_small.pth; loaded with weights_only=True."""
    out: Positional[Path]
    """Directory to write."""
    heads: Positive[int]
    """Attention heads: 8 for U-ViT-S/2 and U-ViT-S/2 (Deep)."""
    text_tokens: Positive[int] | None = None
    """Text tokens, where the inferred number is wrong (it is printed)."""
    text_encoder: str = "clip-vit-large-patch14"
    """The text encoder the model was trained with, recorded for generation."""
    autoencoder: str = "stabilityai/sd-vae-ft-ema"
    """The autoencoder for generation, recorded: a hub id or a folder. U-ViT's COCO models were trained on latents of Stable
    Diffusion's original one (CompVis/stable-diffusion-v1-4), whose encoder this one shares; its decoder is a later,
    better one."""
    latent_scale: Positive[float] = 0.2301
    """What latents were multiplied by in training."""

    def __post_init__(self) -> None:
        check(self)


CONFIG = ConvertConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    started = now()
    config = parse(CONFIG, arguments, prog="ifuvit convert")
    out = OutputDirectory(config.out, "convert")
    out.earlier()

    from ifuvit.encoders.normalization import LatentNormalization
    from ifuvit.model.convert import from_uvit, read_checkpoint
    from ifuvit.pipeline import write_pipeline

    state = read_checkpoint(config.checkpoint)
    model = from_uvit(state, heads=config.heads, text_tokens=config.text_tokens, where=str(config.checkpoint))
    c, parameters = model.config, sum(parameter.numel() for parameter in model.parameters())
    with out.replace() as directory:
        write_pipeline(
            directory,
            model,
            # Neither encoder is loaded here, so there are no fingerprints for generation to check.
            autoencoder={"reference": config.autoencoder, "fingerprint": None},
            text_encoder={"reference": config.text_encoder, "fingerprint": None, "max_tokens": c.text_tokens},
            normalization=LatentNormalization(scale=(config.latent_scale,)),
        )
        write_manifest(
            directory,
            "convert",
            to_dict(config),
            started=started,
            checkpoint_sha256=sha256(config.checkpoint),
            backbone=to_dict(c),
            parameters=parameters,
        )
    print(
        f"{config.out}: U-ViT with {parameters:,} parameters: width {c.embed_dim}, depth {c.depth}, {c.num_heads} heads, "
        f"latents {c.latent_channels}x{c.latent_size}x{c.latent_size} in patches of {c.patch_size}, {c.text_tokens} text "
        f"tokens of width {c.text_width}"
    )
    return {"out": config.out, "parameters": parameters}

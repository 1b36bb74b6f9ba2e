"""`ifuvit convert`: turn an official U-ViT checkpoint into a model directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ifuvit.utils.command_line import parse
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now, sha256, write_manifest


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Read a text-to-image U-ViT state dict (github.com/baofff/U-ViT) and write a pipeline directory. Everything about
    the network but the number of heads is inferred from the shapes; the encoders are referred to, not copied."""

    format: Positional[Literal["uvit"]]
    """What the checkpoint is."""
    checkpoint: Positional[Path]
    """The file, such as mscoco_uvit_small.pth; loaded with weights_only=True."""
    out: Positional[Path]
    """Directory to write."""
    heads: int
    """Attention heads: 8 for U-ViT-S/2 and U-ViT-S/2 (Deep)."""
    text_tokens: int | None = None
    """Text tokens, where the inferred number is wrong (it is printed)."""
    text_encoder: str = "clip-vit-large-patch14"
    """The text encoder the model was trained with, recorded for generation."""
    autoencoder: str = "stabilityai/sd-vae-ft-ema"
    """The autoencoder for generation, recorded: a hub id or a folder. U-ViT's COCO models were trained on latents of Stable
    Diffusion's original one (CompVis/stable-diffusion-v1-4), whose encoder this one shares; its decoder is a later,
    better one."""
    latent_scale: float = 0.2301
    """What latents were multiplied by in training."""


def run(config: ConvertConfig) -> Path:
    """Convert and return the directory.

    Raises:
        InputError: the file is not a text-to-image U-ViT that can be used, `heads` does not fit, or `out` holds something
            else.
    """
    started = now()
    if config.latent_scale <= 0:
        raise InputError(f"--latent-scale {config.latent_scale}: must be positive")
    if config.out.exists() and not config.out.is_dir():
        raise InputError(f"{config.out}: is a file; give a directory to write")
    if config.out.is_dir() and any(config.out.iterdir()) and not (config.out / "model_index.json").is_file():
        raise InputError(f"{config.out}: holds something else already; give a new or empty directory")

    from ifuvit.encoders.normalization import LatentNormalization
    from ifuvit.model.convert import from_uvit, read_checkpoint
    from ifuvit.pipeline import write_pipeline

    state = read_checkpoint(config.checkpoint)
    model = from_uvit(state, heads=config.heads, text_tokens=config.text_tokens, where=str(config.checkpoint))
    write_pipeline(
        config.out,
        model,
        # Neither encoder is loaded here, so there are no fingerprints for generation to check.
        autoencoder={"reference": config.autoencoder, "fingerprint": None},
        text_encoder={
            "reference": config.text_encoder,
            "fingerprint": None,
            "max_tokens": model.config.text_tokens,
        },
        normalization=LatentNormalization(scale=(config.latent_scale,)),
    )
    write_manifest(
        config.out,
        "convert",
        to_dict(config),
        started=started,
        checkpoint_sha256=sha256(config.checkpoint),
        backbone=to_dict(model.config),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    return config.out


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    from ifuvit.utils.files import read_json

    out = run(parse(ConvertConfig, arguments, prog="ifuvit convert"))
    facts = read_json(out / "manifest.json")
    c = facts["backbone"]
    print(
        f"{out}: U-ViT with {facts['parameters']:,} parameters: width {c['embed_dim']}, depth {c['depth']}, "
        f"{c['num_heads']} heads, latents {c['latent_channels']}x{c['latent_size']}x{c['latent_size']} in patches of "
        f"{c['patch_size']}, {c['text_tokens']} text tokens of width {c['text_width']}"
    )

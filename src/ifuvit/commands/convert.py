"""`ifuvit convert`: other weights as a pipeline directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ifuvit.training.config import AverageWidth
from ifuvit.utils.command_line import Actions, parse
from ifuvit.utils.config import Positive, check, to_dict
from ifuvit.utils.files import OutputDirectory, now, sha256, write_manifest


@dataclass(frozen=True, kw_only=True)
class ConvertUViTConfig:
    """Read a text-to-image U-ViT state dict (github.com/baofff/U-ViT) and write a pipeline directory. Everything about
    the network but the number of heads is inferred from the shapes; the encoders are referred to, not copied.

    Example:
        ifuvit convert uvit mscoco_uvit_small.pth models/uvit --heads 8
    """

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


@dataclass(frozen=True, kw_only=True)
class ConvertAverageConfig:
    """Write the pipeline directory of a run that was trained with --power-ema, with its weights averaged over another
    width: a combination of the two averages of all its checkpoints (Karras et al. 2024).

    Example:
        ifuvit convert average run averaged --width 0.08
    """

    run: Positional[Path]
    """Run directory of `ifuvit train`."""
    out: Positional[Path]
    """Directory to write."""
    width: AverageWidth
    """Standard deviation of the average's profile, as a share of the training time up to the step."""
    step: Annotated[Positive[int] | None, arg(metavar="INT")] = None
    """Step of a checkpoint at which the average ends; default: the last."""

    def __post_init__(self) -> None:
        check(self)


CONFIG = Actions(
    word="source",
    about="Make a pipeline directory of other weights.",
    configs={"uvit": ConvertUViTConfig, "average": ConvertAverageConfig},
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit convert")
    if isinstance(config, ConvertUViTConfig):
        return _convert_uvit(config)
    return _convert_average(config)


def _convert_uvit(config: ConvertUViTConfig) -> dict[str, Any]:
    started, out = now(), OutputDirectory(config.out, "convert")
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


def _convert_average(config: ConvertAverageConfig) -> dict[str, Any]:
    started, out = now(), OutputDirectory(config.out, "convert")
    out.earlier()

    from ifuvit.pipeline import Pipeline
    from ifuvit.training.power_ema import reconstruct
    from ifuvit.utils.weights import load_state

    weights, step = reconstruct(config.run, config.width, config.step)
    pipeline = Pipeline.from_pretrained(config.run)
    own = pipeline.model.state_dict()
    chosen = {name: tensor for name, tensor in weights.items() if name in own}  # without a head that only training has
    load_state(pipeline.model, chosen, where=f"{config.run / 'averages'}")
    with out.replace() as directory:
        pipeline.save_pretrained(directory)
        write_manifest(directory, "convert", to_dict(config), started=started, step=step)
    print(f"{config.out}: weights of step {step} averaged over a width of {config.width:g}")
    return {"out": config.out, "step": step}

"""What a run is given: features that have to fit the model, their text encoder, and the weights fine-tuning starts from."""

from pathlib import Path
from typing import TYPE_CHECKING

from ifuvit.training.config import TrainConfig
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ifuvit.data.encoded import EncodedDataset
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import Pipeline


def check_features(config: TrainConfig, features: "EncodedDataset", where: Path) -> None:
    """Refuse features (found at `where`) whose latents or text embeddings are not of the model's shape.

    Raises:
        InputError: both shapes, and what to change.
    """
    model = config.model
    channels, size = features.latent_channels, features.latent_size
    if (channels, size) != (model.latent_channels, model.latent_size):
        raise InputError(
            f"{where}: latents are {channels}x{size}x{size}, the model wants {model.latent_channels}x"
            f"{model.latent_size}x{model.latent_size}; prepare images of another --size, or set --latent-size and "
            "--latent-channels"
        )
    tokens, width = features.text_encoder["max_tokens"], features.text_encoder["width"]
    if (tokens, width) != (model.text_tokens, model.text_width):
        raise InputError(
            f"{where}: text embeddings are {tokens}x{width}, the model wants {model.text_tokens}x{model.text_width}; "
            f"prepare with another --text-encoder, or set --text-tokens and --text-width"
        )


def check_same_encoders(features: "EncodedDataset", others: "EncodedDataset") -> None:
    """Refuse features of another autoencoder or text encoder than the training data's.

    Raises:
        InputError: which of the two differs.
    """
    for name in ("autoencoder", "text_encoder"):
        mine, theirs = getattr(features, name), getattr(others, name)
        if mine["fingerprint"] != theirs["fingerprint"]:
            raise InputError(
                f"{others.directory}: made with {name.replace('_', ' ')} {theirs['reference']!r}, the training data with "
                f"{mine['reference']!r} or another version of it; prepare both with the same"
            )


def split(
    config: TrainConfig, features: "EncodedDataset", val_features: "EncodedDataset"
) -> "tuple[np.ndarray, np.ndarray]":
    """Rows for training and for validation, ascending: (N,) and (M,) int64, of `features` and of `val_features`. Where the
    two are the same, at most one image in twenty is held out for validation; the choice depends on the seed alone."""
    import numpy as np

    if val_features is not features:
        return np.arange(len(features)), np.arange(min(config.validation_images, len(val_features)))
    order = np.random.default_rng(config.seed).permutation(len(features))
    held_out = min(config.validation_images, len(features) // 20)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def load_text_encoder(features: "EncodedDataset", device: "torch.device") -> "TextEncoder":
    """The encoder that made the features' token ids and text embeddings.

    Raises:
        InputError: it is not to be had, or has changed since.
    """
    from ifuvit.encoders.text_encoder import TextEncoder

    encoder = TextEncoder.from_pretrained(
        features.text_encoder["reference"], max_tokens=features.text_encoder["max_tokens"], device=str(device)
    )
    if encoder.fingerprint != features.text_encoder["fingerprint"]:
        raise InputError(
            f"{features.directory}: made with another version of the text encoder "
            f"{features.text_encoder['reference']!r} than the one found here"
        )
    return encoder


def load_pipeline(config: TrainConfig, features: "EncodedDataset", device: "torch.device") -> "Pipeline":
    """What draws images while the model trains: the features' own encoders, and a backbone that is given its weights
    before each use.

    Raises:
        InputError: an encoder is not to be had here, or has changed since.
    """
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import Pipeline

    autoencoder = Autoencoder.from_pretrained(features.autoencoder["reference"], device)
    if autoencoder.fingerprint != features.autoencoder["fingerprint"]:
        raise InputError(
            f"{features.directory}: made with another version of the autoencoder {features.autoencoder['reference']!r} "
            "than the one found here"
        )
    text_encoder = load_text_encoder(features, device)
    return Pipeline(
        IFUViT(config.model),
        autoencoder,
        text_encoder,
        latent_scale=features.latent_scale,
        initial_latents=features.initial_latents_distribution,
        device=device,
    )


def initialize(model: "IFUViT", source: str) -> dict[str, list[str]]:
    """Copy the weights of another model where names and shapes agree. What cannot be: the inputs' own layers may differ
    (another text encoder, another latent size), any other difference in shape is a mistake.

    Args:
        model: gets the weights.
        source: shipped name, run, pipeline or model directory.

    Returns:
        names of tensors: "loaded" ones, "new" ones that keep their values, and "unused" ones of the source.

    Raises:
        InputError: no such model, or one of another width.
    """
    import torch

    from ifuvit.model.uvit import IFUViT

    other = IFUViT.from_pretrained(source).state_dict()
    own = model.state_dict()
    report: dict[str, list[str]] = {"loaded": [], "new": [], "unused": [name for name in other if name not in own]}
    for name, tensor in own.items():
        same = name in other and other[name].shape == tensor.shape
        if name in other and not same and not name.startswith(("pos_embed", "context_embed")):
            raise InputError(
                f"{source}: {name} has shape {tuple(other[name].shape)}, this model {tuple(tensor.shape)}; --init-from "
                "needs a model of the same width"
            )
        report["loaded" if same else "new"].append(name)
        if same:
            with torch.no_grad():
                tensor.copy_(other[name])
    if not report["loaded"]:
        raise InputError(f"{source}: none of its weights fits this model")
    return report

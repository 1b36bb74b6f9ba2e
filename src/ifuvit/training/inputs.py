"""The inputs of a run: data that fit the model, their normalization and encoders, and the weights fine-tuning starts from."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.settings import IFUViTConfig
from ifuvit.training.config import Recipe, TrainConfig
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ifuvit.data.encoded import EncodedDataset
    from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import Pipeline
    from ifuvit.training.alignment import Alignment


def check_dataset(model: IFUViTConfig, dataset: "EncodedDataset", where: Path) -> None:
    """Refuse a data set (found at `where`) whose latents or text embeddings are not of the model's shape.

    Raises:
        InputError: both shapes, and what to change.
    """
    channels, size = dataset.latent_channels, dataset.latent_size
    if (channels, size) != (model.latent_channels, model.latent_size):
        raise InputError(
            f"{where}: latents are {channels}x{size}x{size}, the model takes {model.latent_channels}x"
            f"{model.latent_size}x{model.latent_size}; prepare images of another --size, or set --latent-size and "
            "--latent-channels"
        )
    tokens, width = dataset.text_encoder["max_tokens"], dataset.text_encoder["width"]
    if (tokens, width) != (model.text_tokens, model.text_width):
        raise InputError(
            f"{where}: text embeddings are {tokens}x{width}, the model takes {model.text_tokens}x{model.text_width}; "
            f"prepare with another --text-encoder, or set --text-tokens and --text-width"
        )
    if model.text_mix != "none" and (layers := len(dataset.text_encoder["layers"] or [-1])) != model.text_layers:
        raise InputError(
            f"{where}: text embeddings are of {layers} layer{'s' * (layers > 1)} side by side, the model mixes "
            f"{model.text_layers}; set --text-layers {layers}, or prepare with --text-layer"
        )


def check_layouts(recipe: Recipe, dataset: "EncodedDataset", where: Path) -> None:
    """Refuse a recipe that learns layouts from a data set that has none, or a model without the head for it.

    Raises:
        InputError: which is missing.
    """
    if recipe.layout.layout_weight and not dataset.has_layouts:
        raise InputError(f"{where}: has no layouts; prepare it with --instances, or set --layout-weight 0")
    if recipe.layout.layout_weight and recipe.model.layout_kinds < max(dataset.layout_kinds, 1):
        raise InputError(
            f"layout_kinds={recipe.model.layout_kinds}: {where} has objects of {dataset.layout_kinds} kinds; set "
            f"--layout-kinds {dataset.layout_kinds} or more, or --layout-weight 0"
        )


def check_path_drop(recipe: Recipe) -> None:
    """Refuse a recipe that would never teach a model its branch without text.

    Raises:
        InputError: both fields.
    """
    if recipe.model.path_drop and not recipe.batches.caption_dropout:
        raise InputError(
            "path_drop=True and caption_dropout=0: the branch without text learns from samples whose caption is dropped; set "
            "--caption-dropout 0.1, or leave out --path-drop"
        )


def check_same_encoders(dataset: "EncodedDataset", others: "EncodedDataset") -> None:
    """Refuse a data set of another autoencoder or text encoder than the training data's.

    Raises:
        InputError: which of the two differs.
    """
    for name in ("autoencoder", "text_encoder"):
        mine, theirs = getattr(dataset, name), getattr(others, name)
        if mine["fingerprint"] != theirs["fingerprint"]:
            raise InputError(
                f"{others.directory}: made with {name.replace('_', ' ')} {theirs['reference']!r}, the training data with "
                f"{mine['reference']!r} or another version of it; prepare both with the same"
            )


def split(
    config: TrainConfig, dataset: "EncodedDataset", val_dataset: "EncodedDataset"
) -> "tuple[np.ndarray, np.ndarray]":
    """Rows for training and for validation, ascending: (N,) and (M,) int64, of `dataset` and of `val_dataset`. Where the
    two are the same, at most one image in twenty is held out for validation; the choice depends on the seed alone."""
    import numpy as np

    wanted = config.validation.validation_images
    if val_dataset is not dataset:
        return np.arange(len(dataset)), np.arange(min(wanted, len(val_dataset)))
    order = np.random.default_rng(config.recipe.start.seed).permutation(len(dataset))
    held_out = min(wanted, len(dataset) // 20)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def load_text_encoder(dataset: "EncodedDataset", device: "torch.device") -> "TextEncoder":
    """The encoder that made the data set's token ids and text embeddings.

    Raises:
        InputError: it is not available, or has changed since.
    """
    from ifuvit.encoders.text_encoder import TextEncoder

    facts = dataset.text_encoder
    encoder = TextEncoder.from_pretrained(
        facts["reference"], max_tokens=facts["max_tokens"], layers=facts.get("layers"), device=str(device)
    )
    if encoder.fingerprint != dataset.text_encoder["fingerprint"]:
        raise InputError(
            f"{dataset.directory}: made with another version of the text encoder "
            f"{dataset.text_encoder['reference']!r} than the one found here"
        )
    return encoder


def measure_text(dataset: "EncodedDataset", encoder: "TextEncoder | None") -> "tuple[np.ndarray, np.ndarray]":
    """Mean and deviation of each feature over the tokens (without padding) of 4,096 evenly spaced captions, (D,) float32
    each. A feature that does not vary gets the deviation 1.

    Args:
        dataset: with the captions.
        encoder: for a data set of token ids.
    """
    import numpy as np

    from ifuvit.encoders.text_encoder import Tokens

    rows = np.unique(np.linspace(0, dataset.caption_count - 1, min(dataset.caption_count, 4_096)).astype(np.int64))
    count, width = 0, dataset.text_encoder["width"]
    total, squares = np.zeros(width), np.zeros(width)
    for part in np.array_split(rows, -(-len(rows) // 64)):
        if encoder is None:
            states, mask = dataset.text(part)
        else:
            ids, mask = dataset.tokens(part)
            states = encoder.encode(Tokens(ids, mask)).cpu().numpy()  # type: ignore[arg-type]
        real = states[mask].astype(np.float64)
        count, total, squares = count + len(real), total + real.sum(0), squares + np.square(real).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


def measured_normalization(kind: Literal["scalar", "channel"], dataset: "EncodedDataset") -> LatentNormalization:
    """The latent normalization of a data set."""
    if kind == "scalar":
        return LatentNormalization(scale=(dataset.latent_scale,))
    return LatentNormalization(
        mean=tuple(dataset.latent_mean), scale=tuple(1 / deviation for deviation in dataset.latent_std)
    )


def choose_normalization(recipe: Recipe, dataset: "EncodedDataset") -> tuple[LatentNormalization, str]:
    """The latent normalization of a new run, and where it is from: that of the model it starts from, if that has one and the
    recipe does not say otherwise, else the data set's."""
    start, kind = recipe.start, recipe.batches.latent_normalization
    if start.init_from is not None and not start.renormalize_latents:
        from ifuvit.pipeline import find_normalization

        kept = find_normalization(start.init_from)
        if kept is not None:
            return kept, f"kept from {start.init_from}"
    return measured_normalization(kind, dataset), f"{kind}, measured on {dataset.directory}"


def load_alignment(
    recipe: Recipe, dataset: "EncodedDataset", normalization: LatentNormalization, device: "torch.device"
) -> "Alignment | None":
    """To what a run aligns its middle block; None where the recipe does not say.

    Raises:
        InputError: the network or the autoencoder is not available here.
    """
    if recipe.alignment.align_to is None:
        return None
    from ifuvit.training.alignment import Alignment, FrozenFeatures

    features = FrozenFeatures(recipe.alignment.align_to, device)
    return Alignment(features, load_autoencoder(dataset, device), normalization)


def load_autoencoder(dataset: "EncodedDataset", device: "torch.device") -> "Autoencoder":
    """The autoencoder that made the data set's latents.

    Raises:
        InputError: it is not available here, or has changed since.
    """
    from ifuvit.encoders.autoencoder import Autoencoder

    autoencoder = Autoencoder.from_pretrained(dataset.autoencoder["reference"], device)
    if autoencoder.fingerprint != dataset.autoencoder["fingerprint"]:
        raise InputError(
            f"{dataset.directory}: made with another version of the autoencoder {dataset.autoencoder['reference']!r} "
            "than the one found here"
        )
    return autoencoder


def load_pipeline(
    recipe: Recipe,
    dataset: "EncodedDataset",
    normalization: LatentNormalization,
    initial_latents: "InitialLatentsDistribution | None",
    device: "torch.device",
) -> "Pipeline":
    """What generates images while the model trains: the data set's own encoders, and a backbone that gets its weights before
    each use.

    Raises:
        InputError: an encoder is not available here, or has changed since.
    """
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import Pipeline

    return Pipeline(
        IFUViT(recipe.model),
        load_autoencoder(dataset, device),
        load_text_encoder(dataset, device),
        objective=recipe.objective,
        normalization=normalization,
        initial_latents=initial_latents,
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

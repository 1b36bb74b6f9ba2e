"""Alignment of the middle block to a frozen vision network (REPA: Yu et al. 2025, arXiv 2410.06940): a help in training that is
not the paper's.

The network sees the clean image of every sample, as the autoencoder decodes it from the sample's latents; a small head on the
middle block's image tokens is drawn to its features, patch by patch, by their cosine. The head is trained with the backbone,
travels in checkpoints, and is no part of the pipeline that a run exports.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.metrics.distances.feature_networks import load_feature_network
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import fingerprint, read_object
from ifuvit.utils.hub import find_folder, load_model

if TYPE_CHECKING:
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.model.uvit import IFUViT

EMBEDDED = "effnet-lite0"
_HEAD = "align_head"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, where a folder has no preprocessor
_STRIDE = 32  # of convolutional networks


class FrozenFeatures:
    """A frozen vision network: images -> a feature for every patch.

    Args:
        name: "effnet-lite0", which is embedded (without its last pooling), or a folder or hub id of a vision model of
            transformers, whose last hidden state is taken.
        device: where it runs.

    Raises:
        InputError: no such model, or it cannot be loaded.

    Attributes:
        width: C of a feature.
        fingerprint: SHA-256 over the weights.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.patch, self.further = name, None, {}
        if name == EMBEDDED:
            network = load_feature_network(EMBEDDED, device=device)
            self.module: nn.Module = network.module.network  # type: ignore[assignment]
            self.width, self.fingerprint = network.width, network.fingerprint
            mean, std = (tuple(value / 255 for value in of) for of in ((127.0,), (128.0,)))
        else:
            self.module, mean, std = self._load(name)
        self.module.to(device).eval().requires_grad_(False)
        self.mean, self.std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))

    def _load(self, name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
        what = "vision model"
        advice = f"give {EMBEDDED}, a folder of a transformers model, or a hub id such as facebook/dinov2-base"
        folder = find_folder(name, what=what, advice=advice, files=("preprocessor_config.json",))
        kind = read_object(folder / "config.json").get("model_type")
        module: Any = load_model("CLIPVisionModel" if kind == "clip" else "AutoModel", folder, what=what)
        if module.main_input_name != "pixel_values":
            raise InputError(f"align_to={name!r}: holds a model of the type {kind!r}, which takes no images; {advice}")
        self.fingerprint = fingerprint([folder / "config.json", *sorted(folder.glob("*.safetensors"))])
        sizes = getattr(module.config, "hidden_sizes", None)
        self.width = sizes[-1] if sizes else module.config.hidden_size
        self.patch = getattr(module.config, "patch_size", None)
        if "interpolate_pos_encoding" in inspect.signature(module.forward).parameters:
            self.further = {"interpolate_pos_encoding": True}
        file = Path(folder, "preprocessor_config.json")
        prepared = read_object(file) if file.is_file() else {}
        return module, tuple(prepared.get("image_mean", _MEAN)), tuple(prepared.get("image_std", _STD))

    @torch.no_grad()
    def __call__(self, images: Tensor, side: int) -> Tensor:
        """Images (B, 3, H, W), about in [-1, 1] -> features (B, side², C) float32, row by row. The images are resized so that the
        network has a cell for each, where it can.

        Raises:
            InputError: a network without features by place.
        """
        pixels = side * (self.patch if isinstance(self.patch, int) else _STRIDE)
        x = F.interpolate((images.float().clamp(-1, 1) + 1) / 2, (pixels, pixels), mode="bicubic", antialias=True)
        x = (x.clamp(0, 1) - self.mean) / self.std
        with torch.autocast(x.device.type, enabled=False):
            if self.name == EMBEDDED:
                found = self.module.extract_features(x)  # type: ignore[operator]
            else:
                found = self.module(pixel_values=x, **self.further).last_hidden_state
        if found.ndim == 3 and found.shape[1] >= side**2:  # class and register tokens stand first
            return found[:, -(side**2) :].float()
        if found.ndim == 4:
            return (
                F.interpolate(found.float(), (side, side), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
            )
        raise InputError(f"align_to={self.name!r}: its last hidden state of shape {tuple(found.shape)} has no places")


class Alignment:
    """What a training step needs to align: the features of its clean images.

    Args:
        features: of the frozen network.
        autoencoder: decodes the latents.
        normalization: of the run's latents.
    """

    def __init__(
        self, features: FrozenFeatures, autoencoder: "Autoencoder", normalization: LatentNormalization
    ) -> None:
        self.features, self.autoencoder, self.normalization = features, autoencoder, normalization

    def attach(self, model: "IFUViT") -> None:
        """Give a backbone the head: three layers from the width of its tokens to that of the features."""
        width = model.config.embed_dim
        head = nn.Sequential(
            *(nn.Linear(width, 2 * width), nn.SiLU()),
            *(nn.Linear(2 * width, 2 * width), nn.SiLU()),
            nn.Linear(2 * width, self.features.width),
        )
        model.add_module(_HEAD, head)

    def loss(self, model: "IFUViT", middle: Tensor, latents: Tensor) -> Tensor:
        """1 - cosine of head and features, mean over patches.

        Args:
            model: with the head.
            middle: (B, N or L + N, D), the middle block's output.
            latents: (B, C, H, W), normalized, without noise.
        """
        c = model.config
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            images = self.autoencoder.decode(self.normalization.denormalize(latents.float()))
            wanted = self.features(images, c.latent_size // c.patch_size)
        return 1 - F.cosine_similarity(head_of(model)(middle[:, -c.num_patches :]).float(), wanted, dim=-1).mean()


def head_of(model: "IFUViT") -> nn.Module:
    """The head that `Alignment.attach` gave a backbone."""
    return getattr(model, _HEAD)


def exported(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name without those of the head."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{_HEAD}.")}

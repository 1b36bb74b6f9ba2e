"""Pixels to latents and back: a frozen KL autoencoder, as latent diffusion uses it.

Any `AutoencoderKL` of diffusers will do: Stable Diffusion's (3x256x256 <-> 4x32x32) or this project's own small one,
which is trained on OpenMoji Scenes by `ifuvit make-standin autoencoder` and ships under the name "openmoji"
(3x64x64 <-> 4x16x16).

Latents here are unscaled: the factor that brings them to unit variance belongs to the data set (the prepared features
measure it, pipelines record it) and is applied in training and sampling.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ifuvit.shipped import DIRECTORY
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import CHECKSUMS, atomic_path, read_json, verify_checksums, write_checksums, write_json

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from ifuvit.encoders.normalization import LatentNormalization

Array = TypeVar("Array", np.ndarray, torch.Tensor)

SHIPPED = DIRECTORY
_PREFIX = "autoencoder-"
_WEIGHTS = "diffusion_pytorch_model"

# What determines the numbers an AutoencoderKL gives, with the values of a config that does not name them. The rest of
# its config (sample size, scaling factor, library version) does not, and changes between versions of diffusers.
_ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


def shipped_names() -> tuple[str, ...]:
    """Names of the autoencoders that come with the package."""
    return tuple(sorted(path.name.removeprefix(_PREFIX) for path in SHIPPED.glob(f"{_PREFIX}*/") if path.is_dir()))


def sample_posterior(moments: Array, noise: Array) -> Array:
    """Draw latents from the encoder's Gaussian posterior: mean + exp(log-variance / 2) * noise.

    Args:
        moments: (B, 2C, h, w), mean and log-variance along the channels, as `Autoencoder.moments` gives them.
        noise: (B, C, h, w), standard normal; an array of the same library as `moments`.

    Returns:
        Unscaled latents (B, C, h, w).

    Raises:
        InputError: `noise` does not have half the channels of `moments` and otherwise its shape.
    """
    channels = moments.shape[1] // 2
    if tuple(noise.shape) != (moments.shape[0], channels, *moments.shape[2:]) or moments.shape[1] % 2:
        raise InputError(f"noise of shape {tuple(noise.shape)} does not fit moments of shape {tuple(moments.shape)}")
    half_log_variance = moments[:, channels:] / 2
    if isinstance(half_log_variance, torch.Tensor):
        return moments[:, :channels] + half_log_variance.exp() * noise
    return moments[:, :channels] + np.exp(half_log_variance) * noise


class Autoencoder:
    """A frozen KL autoencoder in fp32 and evaluation mode.

    Attributes:
        vae: diffusers' module.
        reference: what `from_pretrained` finds it by again: a shipped name, a hub id or an absolute path.
    """

    def __init__(self, vae: "AutoencoderKL", *, reference: str) -> None:
        if vae.dtype != torch.float32:
            vae = vae.to(torch.float32)  # type: ignore[arg-type]
        # Channels last in memory: convolutions take a fifth to a quarter less time, and none reorders its input.
        self.vae = vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.reference = reference

    @classmethod
    def from_pretrained(cls, reference: str | Path, device: str | torch.device = "cpu") -> "Autoencoder":
        """Load an autoencoder; weights stored in half precision are widened to fp32.

        Args:
            reference: a shipped name ("openmoji"); a diffusers folder, or one that holds such a folder as
                `autoencoder/` (a run of `make-standin autoencoder`) or `vae/` (a pipeline); or a model id of the Hugging Face hub,
                whose root or `vae/` is an AutoencoderKL. A shipped name goes before a folder of that name (say `./openmoji`).
            device: where to put it.

        Raises:
            InputError: there is no such autoencoder, or it is damaged, incomplete or of another kind.
        """
        if isinstance(reference, str) and reference in shipped_names():
            return cls(_load_folder(SHIPPED / f"{_PREFIX}{reference}"), reference=reference)._to(device)
        path = Path(reference).expanduser()
        if path.is_dir():
            folder = _folder(path).resolve()
            return cls(_load_folder(folder), reference=str(folder))._to(device)
        if path.exists():
            raise InputError(
                f"{reference}: an autoencoder is a folder with config.json and {_WEIGHTS}.safetensors, not a file"
            )
        if isinstance(reference, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", reference):
            return cls(_load_hub(reference), reference=reference)._to(device)
        known = ", ".join(shipped_names()) or "none"
        raise InputError(
            f"{reference}: no such autoencoder; give a folder, a hub id (owner/name) or a shipped name ({known})"
        )

    def _to(self, device: str | torch.device) -> "Autoencoder":
        self.vae.to(device)  # type: ignore[arg-type]
        return self

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config["latent_channels"])

    @property
    def factor(self) -> int:
        """Pixels a latent cell is wide and high."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images it was trained on, as its config says (diffusers' "sample_size")."""
        return int(self.vae.config["sample_size"])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the architecture and the fp32 weights: equal wherever the same numbers are computed, whatever
        the machine, the file format or the precision in which the same values are stored."""
        config = {key: self.vae.config.get(key, default) for key, default in _ARCHITECTURE.items()}
        digest = hashlib.sha256(repr([(key, _plain(value)) for key, value in sorted(config.items())]).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy(), dtype="<f4")
            digest.update(f"{name} {array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> torch.Tensor:
        """Encode to the parameters of the posterior.

        Args:
            images: (B, 3, H, W) in [-1, 1]; H and W are multiples of `factor`.

        Returns:
            (B, 2 * channels, H / factor, W / factor), fp32: mean, then log-variance clamped to [-30, 20], as in
            diffusers' DiagonalGaussianDistribution.

        Raises:
            InputError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise InputError(
                f"images of shape {tuple(images.shape)}: expected (B, 3, H, W) with H and W multiples of {self.factor}"
            )
        posterior = self.vae.encode(images.to(self.vae.device, torch.float32)).latent_dist  # type: ignore[union-attr]
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode unscaled latents (B, channels, h, w) to images (B, 3, h * factor, w * factor), about in [-1, 1] (the
        network does not clamp).

        Raises:
            InputError: another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise InputError(f"latents of shape {tuple(latents.shape)}: expected (B, {self.channels}, h, w)")
        return self.vae.decode(latents.to(self.vae.device, torch.float32)).sample  # type: ignore[union-attr]

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) as they come out again, decoded from the posterior's mean and clamped to [-1, 1]; on the
        autoencoder's device.

        Raises:
            InputError: a shape that `moments` refuses.
        """
        return self.decode(self.moments(images)[:, : self.channels]).clamp(-1, 1)

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        normalization: "LatentNormalization | None" = None,
    ) -> None:
        """Write a diffusers folder (config.json, diffusion_pytorch_model.safetensors). With `dtype=torch.float16` it
        takes half the room; the values are rounded, so the fingerprint of what is loaded from there is another. With a
        `normalization` the config has it as diffusers' scaling factor and shift, or by channel as its means and deviations."""
        save_vae(self.vae, directory, dtype=dtype, config={} if normalization is None else _scaling(normalization))


def _scaling(normalization: "LatentNormalization") -> dict[str, Any]:
    """A latent normalization as fields of an AutoencoderKL's config."""
    mean, scale = normalization.mean, normalization.scale
    if len(scale) == 1:
        return {"scaling_factor": scale[0], "shift_factor": mean[0] or None, "latents_mean": None, "latents_std": None}
    deviations = [1 / one for one in scale]
    return {"scaling_factor": 1.0, "shift_factor": None, "latents_mean": list(mean), "latents_std": deviations}


def save_vae(
    vae: "AutoencoderKL",
    directory: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write `vae` as a diffusers folder in the given precision, some fields of its config changed; `vae` itself is left as it
    is."""
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CHECKSUMS).unlink(missing_ok=True)
    # "_name_or_path" says where on this machine the weights were found.
    own = {key: value for key, value in json.loads(vae.to_json_string()).items() if key != "_name_or_path"}
    write_json(directory / "config.json", {**own, **config})
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in vae.state_dict().items()}
    with atomic_path(directory / f"{_WEIGHTS}.safetensors") as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_checksums(directory, "config.json", f"{_WEIGHTS}.safetensors")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _folder(path: Path) -> Path:
    """The diffusers folder at or in `path`."""
    for folder in (path, path / "autoencoder", path / "vae"):
        if (folder / "config.json").is_file() and any(folder.glob(f"{_WEIGHTS}*.safetensors")):
            return folder
    raise InputError(
        f"{path}: holds no autoencoder; expected config.json and {_WEIGHTS}.safetensors there, in autoencoder/ or in vae/"
    )


def _load_folder(folder: Path) -> "AutoencoderKL":
    config = read_json(folder / "config.json")
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderKL":
        raise InputError(f"{folder}/config.json: _class_name is {kind!r}; only AutoencoderKL can be used")
    # Files of a variant alone ("diffusion_pytorch_model.fp16.safetensors") are asked for by the variant's name.
    files = sorted(folder.glob(f"{_WEIGHTS}*.safetensors"))
    variants = [match[1] for file in files if (match := re.fullmatch(rf"{_WEIGHTS}\.(\w+)\.safetensors", file.name))]
    has_plain = any("." not in file.name.removesuffix(".safetensors") for file in files)
    vae = _load(str(folder), variant=variants[0] if variants and not has_plain else None)
    verify_checksums(folder)
    return vae


def _load_hub(identifier: str) -> "AutoencoderKL":
    try:
        return _load(identifier)
    except InputError as error:
        try:
            return _load(identifier, subfolder="vae")
        except InputError:
            raise error from None


def _load(source: str, *, subfolder: str | None = None, variant: str | None = None) -> "AutoencoderKL":
    """diffusers' loader (it knows old parameter names and sharded files), strict: no weight is left random, nothing
    is unpickled, and every failure is one line."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from safetensors import SafetensorError

    try:
        vae, info = AutoencoderKL.from_pretrained(  # type: ignore[misc]
            source,
            subfolder=subfolder,
            variant=variant,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (
        *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError),
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: cannot load this autoencoder ({reason})") from None
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info.get(problem):
            raise InputError(
                f"{source}: its weights do not fit its config.json ({problem.replace('_', ' ')}: {len(info[problem])}, "
                f"such as {min(map(str, info[problem]))})"
            )
    # The tensors are still views of the mapped file: unaligned, and gone if somebody cuts the file short.
    for tensor in [*vae.parameters(), *vae.buffers()]:
        tensor.data = tensor.data.clone()
    return vae

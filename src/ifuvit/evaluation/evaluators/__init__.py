"""Evaluators by name. A new one is a class as `ifuvit.evaluation.evaluators.base.Evaluator` describes it, in a module of
its own, and a line here."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ifuvit.evaluation.evaluators.base import Evaluator

# By module and class, so that a configuration can name them without importing torch.
EVALUATORS: Mapping[str, str] = MappingProxyType(
    {
        "distances": "distances.Distances",
        "alignment": "alignment.Alignment",
        "counts": "counts.Counts",
        "costs": "costs.Costs",
        "diversity": "diversity.Diversity",
    }
)


def find_evaluator(name: str) -> "type[Evaluator]":
    """The class of a registered evaluator."""
    module, _, cls = EVALUATORS[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)

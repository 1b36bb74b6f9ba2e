"""Evaluators by name. A new one is a class as `Evaluator` describes it, in a module of its own, and a line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ifuvit.evaluation.evaluators.alignment import Alignment
from ifuvit.evaluation.evaluators.base import Evaluator, Setup
from ifuvit.evaluation.evaluators.costs import Costs
from ifuvit.evaluation.evaluators.counts import Counts
from ifuvit.evaluation.evaluators.distances import Distances
from ifuvit.evaluation.evaluators.diversity import Diversity

EVALUATORS: Mapping[str, type[Evaluator]] = MappingProxyType(
    {
        "distances": Distances,
        "alignment": Alignment,
        "counts": Counts,
        "costs": Costs,
        "diversity": Diversity,
    }
)

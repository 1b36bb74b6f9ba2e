"""Costs: counted from a model's configuration, read from its training's record, and measured while it generated."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup
from ifuvit.results import Costs as CostsFound
from ifuvit.utils.config import from_dict

if TYPE_CHECKING:
    from ifuvit.evaluation.targets import Target


class Costs:
    """See `Evaluator`. It requires no images, and times those that others do."""

    requires_reference = False
    requires_captions = False

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def facts(self) -> Mapping[str, Any]:
        return {}

    def image_sets(self) -> Sequence[ImageSet]:
        return []

    def prepare(self) -> None:
        pass

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        from ifuvit.model.flops import cost_of
        from ifuvit.model.settings import IFUViTConfig
        from ifuvit.utils.devices import peak_memory

        counted = {} if target.model is None else cost_of(from_dict(IFUViTConfig, target.model))
        training = target.training or {}
        per_second = next((one.per_second for one in images.values() if one.per_second is not None), None)
        measured = {
            "training_steps_per_second": round(training["steps"] / training["seconds"], 3)
            if training.get("seconds")
            else None,
            "images_per_second": None if per_second is None else round(per_second, 3),
            "peak_memory_gib": round(peak_memory(self.setup.device) / 2**30, 3),
        }
        return Findings(costs=from_dict(CostsFound, {**counted, **measured}, where="costs"))

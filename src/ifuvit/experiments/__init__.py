"""The paper's experiments and the atlas as values: settings, scales, costs, expected results. `ifuvit experiment NAME` does them."""

from collections.abc import Mapping
from types import MappingProxyType

from ifuvit.experiments import ablation, atlas, guidance_sweep, n_text, position, table1
from ifuvit.experiments.definition import Claim, Experiment, Scale, Setting
from ifuvit.experiments.scales import SCALES

__all__ = ["EXPERIMENTS", "SCALES", "Claim", "Experiment", "Scale", "Setting"]

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        module.EXPERIMENT.name: module.EXPERIMENT
        for module in (table1, ablation, n_text, position, guidance_sweep, atlas)
    }
)

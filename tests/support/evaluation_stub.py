"""What the tests of sweep and experiment share: models that weigh nothing, and an evaluation that takes no time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.run import EvaluateConfig
from ifuvit.shipped import find
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import sha256, write_json


def write_model(run: Path, weights: str = "weights") -> Path:
    """A run directory as far as `ifuvit.shipped.find` and a hash of the weights need one."""
    (run / "pipeline" / "transformer").mkdir(parents=True)
    (run / "pipeline" / "model_index.json").write_text("{}")
    (run / "pipeline" / "transformer" / "model.safetensors").write_text(weights)
    return run


def write_result(config: EvaluateConfig, values: dict[str, float], setting: dict[str, Any] | None = None) -> Path:
    """A result as `ifuvit evaluate` writes it, with these metrics."""
    protocol = config.resolved_protocol()
    real = ReferenceImages.open(config.data, split=protocol.split)
    metrics = {
        name: {"value": value, "interval": [value - 1, value + 1], "interval_from": "bootstrap over images", "n": 9}
        for name, value in values.items()
    }
    counts = {"overall": {"average_error": {**next(iter(metrics.values())), "value": 0.25}}}
    write_json(
        config.out,
        {
            "command": "evaluate",
            "config": to_dict(config),
            "target": {
                "name": Path(config.target).name,
                "kind": "ifuvit",
                "sha256": sha256(find(config.target) / "transformer" / "model.safetensors"),
                "setting": setting or {"n_text": 1, "n_image": 2},
                "training": None,
            },
            "protocol": to_dict(protocol),
            "data": {"where": str(config.data), "split": "val", "images": len(real), "sha256": real.fingerprint},
            "metrics": metrics,
            "counts": counts if "counts" in config.metrics else None,
            "costs": {"parameters": 7, "training_steps_per_second": 2.0} if "costs" in config.metrics else None,
        },
    )
    return config.out


class Evaluations:
    """Stands in for `ifuvit.evaluation.run.run`: writes a result at once and remembers what it was asked for."""

    def __init__(
        self,
        value: Callable[[EvaluateConfig], float] = lambda config: config.resolved_protocol().sampling.guidance_scale,
    ) -> None:
        self.asked: list[str] = []
        self.killed_at: int | None = None
        self.value = value

    def __call__(self, config: EvaluateConfig) -> Path:
        if len(self.asked) == self.killed_at:
            self.killed_at = None
            raise KeyboardInterrupt
        self.asked.append(config.out.name)
        return write_result(config, {"KID-EffNetLite0": self.value(config), "TwoTower score": 0.5})

"""What the tests of sweep and experiment share: models that weigh nothing, and an evaluation that takes no time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ifuvit import results
from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.run import evaluator_facts
from ifuvit.evaluation.targets import fingerprint_of_pipeline
from ifuvit.shipped import find
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import manifest, now, sha256


def write_model(run: Path, weights: str = "weights") -> Path:
    """A run directory as far as `ifuvit.shipped.find` and a hash of the weights need one."""
    (run / "pipeline" / "transformer").mkdir(parents=True)
    (run / "pipeline" / "scheduler").mkdir()
    for name in ("model_index", "text_encoder", "transformer/config", "scheduler/scheduler_config"):
        (run / "pipeline" / f"{name}.json").write_text("{}")
    (run / "pipeline" / "transformer" / "model.safetensors").write_text(weights)
    return run


def write_result(config: EvaluateConfig, values: dict[str, float], setting: dict[str, Any] | None = None) -> Path:
    """A result as `ifuvit evaluate` writes it, with these metrics."""
    assert config.data is not None and config.out is not None
    protocol, (target,) = config.resolved_protocol(), config.targets
    real = ReferenceImages.open(config.data, split=protocol.split)
    metrics = tuple(
        results.Metric(
            value=value,
            interval=(value - 1, value + 1),
            interval_from="bootstrap over images",
            n=9,
            name=name,
            subject="alignment" if name.endswith("score") else "distance",
            better="higher" if name.endswith("score") else "lower",
        )
        for name, value in values.items()
    )
    scores = results.CountScores(images=9, average_error=results.Estimate(value=0.25))
    objects = {"paper": results.ObjectCounts(counts=results.Counts(overall=scores, by_count={}))}
    metrics_of = config.resolved_metrics()
    result = results.Evaluation(
        **manifest("evaluate", to_dict(config), started=now()),
        target=results.Target(
            name=Path(target).name,
            kind="ifuvit",
            sha256=sha256(find(target) / "transformer" / "model.safetensors"),
            fingerprint=fingerprint_of_pipeline(find(target)),
            model=setting or {"conditioning": "cross", "n_text": 1, "n_image": 2},
        ),
        protocol=to_dict(protocol),
        data=results.ReferenceData(where=str(config.data), split="val", images=len(real), sha256=real.fingerprint),
        metrics=metrics,
        objects=objects if "counts" in metrics_of else {},
        costs=results.Costs(parameters=7, training_steps_per_second=2.0) if "costs" in metrics_of else None,
        evaluators=evaluator_facts(config),
    )
    results.write(config.out, result)
    return config.out


class Evaluations:
    """Stands in for `ifuvit.evaluation.run.evaluate`: writes a result at once and remembers what it was asked for."""

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
        assert config.out is not None
        self.asked.append(config.out.name)
        return write_result(config, {"KID-EffNetLite0": self.value(config), "TwoTower score": 0.5})

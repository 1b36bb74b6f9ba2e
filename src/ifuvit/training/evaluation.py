"""Evaluation while a model trains: a few images from the averaged weights, measured as by `ifuvit evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.data.prompts import PromptSet
from ifuvit.data.scenes import is_scenes
from ifuvit.evaluation.evaluators import find_evaluator
from ifuvit.evaluation.evaluators.base import Findings, Images, Setup
from ifuvit.evaluation.generation import generate_images, image_files
from ifuvit.evaluation.protocols import protocols
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.targets import ImageDecoder, Target
from ifuvit.metrics.counting.skills import skill_metrics
from ifuvit.results import TrainingEvaluation
from ifuvit.training.config import TrainConfig
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline

EVALUATORS_WHILE_TRAINING = ("distances", "alignment")
COUNTS_WHILE_TRAINING: tuple[tuple[PromptSet, int], ...] = (("paper", 5), ("relations", 1))
"""Sets of counting prompts with the images a prompt, where the reference images are OpenMoji Scenes: 100 images of each. They
give the learning curves of `ifuvit bench quality`."""


class Evaluation:
    """The captions of the images, always the same from the same noise, and the evaluators. All processes make one together.

    Args:
        config: its section `evaluation` is used, and `out`, where the images lie (RUN/evaluation, overwritten each time).
        pipeline: generates the images; its backbone gets the averaged weights before each `measure`.
        processes: those of the run.

    Raises:
        InputError: no such real images, fewer than `evaluate_images`, or an evaluator whose weights cannot be loaded.
    """

    def __init__(self, config: TrainConfig, pipeline: "Pipeline", processes: Processes) -> None:
        wanted = config.evaluation
        assert wanted.evaluate_data is not None
        self.pipeline, self.processes = pipeline, processes
        protocol = protocols[wanted.evaluate_protocol]
        counted = protocol.counts_scenes and is_scenes(wanted.evaluate_data)
        self.protocol = replace(
            protocol,
            name=f"{wanted.evaluate_protocol}, while training",
            num_images=wanted.evaluate_images,
            reference="captioned",
            size=pipeline.image_size,
            sampling=wanted.evaluate_sampling or protocol.sampling,
            count_prompts=COUNTS_WHILE_TRAINING if counted else (),
        )
        real = ReferenceImages.open(wanted.evaluate_data, split=self.protocol.split)
        self.target = Target(
            name=config.out.name,
            kind="ifuvit",
            generator=pipeline,
            decoder=ImageDecoder(autoencoder=pipeline.autoencoder, size=pipeline.image_size),
        )
        setup = Setup(
            protocol=self.protocol,
            reference=real,
            device=pipeline.device,
            weights=protocol.weights(wanted.evaluate_weights),
            processes=processes,
        )
        names = (*EVALUATORS_WHILE_TRAINING, *(["counts"] if counted else []))
        self.evaluators = [find_evaluator(name)(setup) for name in names]
        for evaluator in self.evaluators:
            evaluator.prepare()
        wanted_sets = {one.name: one for evaluator in self.evaluators for one in evaluator.image_sets()}
        self.images = {
            name: (one, image_files(_directory(config.out, name), len(one.prompts)))
            for name, one in wanted_sets.items()
        }

    def measure(self) -> dict[str, Any]:
        """Generate the images and measure them; all processes call it together.

        Returns:
            `results.TrainingEvaluation` as JSON values.
        """
        for wanted, files in self.images.values():
            generate_images(
                self.pipeline,
                wanted.prompts,
                files,
                self.protocol.sampling.changed(guidance_scale=wanted.guidance_scale),
                seed=self.protocol.seed,
                batch_size=16 if self.pipeline.device.type == "cpu" else 64,
                processes=self.processes,
                label=f"evaluate, {wanted.name}",
                overwrite=True,
                keep_bar=False,
            )
        images = {name: Images(files=files, prompts=one.prompts) for name, (one, files) in self.images.items()}
        found = sum((evaluator(images, self.target) for evaluator in self.evaluators), Findings())
        return to_dict(
            TrainingEvaluation(
                images=self.protocol.num_images,
                guidance_scale=self.protocol.sampling.guidance_scale,
                steps=self.protocol.sampling.steps,
                solver=self.pipeline.objective.resolve_solver(self.protocol.sampling.solver),
                initial_latents=self.protocol.sampling.initial_latents,
                metrics=(*found.metrics, *skill_metrics(found.objects)),
            )
        )


def _directory(run: Path, images: str) -> Path:
    """Where a set of images lies: those of captions in RUN/evaluation, others below it."""
    return run / "evaluation" / (images if images != "captions" else "")

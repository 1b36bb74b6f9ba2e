"""Evaluation while a model trains: a few images from the averaged weights, measured as by `ifuvit evaluate`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators import find_evaluator
from ifuvit.evaluation.evaluators.base import Findings, Images, Setup
from ifuvit.evaluation.generation import generate_images, image_files
from ifuvit.evaluation.protocols import protocols
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.targets import ImageDecoder, Target
from ifuvit.results import TrainingEvaluation
from ifuvit.training.config import TrainConfig
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline

EVALUATORS_WHILE_TRAINING = ("distances", "alignment")


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
        self.protocol = replace(
            protocol,
            name=f"{wanted.evaluate_protocol}, while training",
            num_images=wanted.evaluate_images,
            reference="captioned",
            size=pipeline.image_size,
            sampling=protocol.sampling.changed(
                steps=wanted.evaluate_steps, guidance_scale=wanted.evaluate_guidance_scale
            ),
            count_prompts=(),
        )
        real = ReferenceImages.open(wanted.evaluate_data, split=self.protocol.split)
        self.prompts = [caption for _, caption in real.choose(self.protocol.num_images, self.protocol.caption_seed)]
        self.files = image_files(config.out / "evaluation", len(self.prompts))
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
            weights=read_weights(wanted.evaluate_weights),
            processes=processes,
        )
        self.evaluators = [find_evaluator(name)(setup) for name in EVALUATORS_WHILE_TRAINING]
        for evaluator in self.evaluators:
            evaluator.prepare()

    def measure(self) -> dict[str, Any]:
        """Generate the images and measure them; all processes call it together.

        Returns:
            `results.TrainingEvaluation` as JSON values.
        """
        generate_images(
            self.pipeline,
            self.prompts,
            self.files,
            self.protocol.sampling,
            seed=self.protocol.seed,
            batch_size=16 if self.pipeline.device.type == "cpu" else 64,
            processes=self.processes,
            label="evaluate",
            overwrite=True,
            keep_bar=False,
        )
        images = {"captions": Images(files=self.files, prompts=self.prompts)}
        found = sum((evaluator(images, self.target) for evaluator in self.evaluators), Findings())
        return to_dict(
            TrainingEvaluation(
                images=self.protocol.num_images,
                guidance_scale=self.protocol.sampling.guidance_scale,
                steps=self.protocol.sampling.steps,
                metrics=found.metrics,
            )
        )

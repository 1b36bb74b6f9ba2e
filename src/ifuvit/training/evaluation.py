"""Evaluation while a model trains: a few images from the averaged weights, judged as `ifuvit evaluate` evaluators them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators import Evaluators
from ifuvit.evaluation.generation import generate_images, image_files
from ifuvit.evaluation.protocols import protocols
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.targets import Settings, image_generator_of
from ifuvit.training.config import TrainConfig
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.distributed import Processes

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline


class Evaluation:
    """The captions that are drawn, always the same from the same noise, and the evaluators. All processes make one together.

    Args:
        config: its `evaluate_` fields are used, and `out`, where the images lie (RUN/evaluation, each time anew).
        pipeline: draws the images; its backbone gets the averaged weights before each `measure`.
        processes: those of the run.

    Raises:
        InputError: no such real images, fewer than `evaluate_images`, or a judge whose weights are not to be had.
    """

    def __init__(self, config: TrainConfig, pipeline: "Pipeline", processes: Processes) -> None:
        assert config.evaluate_data is not None
        self.pipeline, self.processes = pipeline, processes
        self.protocol = replace(
            protocols[config.evaluate_protocol],
            name=f"{config.evaluate_protocol}, while training",
            images=config.evaluate_images,
            reference="captioned",
            size=pipeline.image_size,
            steps=config.evaluate_steps,
            guidance_scale=config.evaluate_guidance_scale,
            count_prompts=(),
        )
        real = ReferenceImages.open(config.evaluate_data, split=self.protocol.split)
        self.prompts = [caption for _, caption in real.choose(self.protocol.num_images, self.protocol.caption_seed)]
        self.files = image_files(config.out / "evaluation", len(self.prompts))
        self.generator = image_generator_of(pipeline)
        self.settings = Settings(
            solver=self.protocol.solver,
            steps=self.protocol.steps,
            guidance_scale=self.protocol.guidance_scale,
            guidance_interval=self.protocol.guidance_interval,
            start=self.protocol.start,
            seed=self.protocol.seed,
        )
        self.evaluators = Evaluators.load(
            self.protocol,
            real,
            device=pipeline.device,
            weights=read_weights(config.evaluate_weights),
            processes=processes,
        )

    def measure(self) -> dict[str, Any]:
        """Draw the images and have them judged; all processes call it together.

        Returns:
            "images", "guidance_scale", "steps", and "metrics": estimates by name.
        """
        generate_images(
            self.generator,
            self.prompts,
            self.files,
            self.settings,
            batch_size=16 if self.pipeline.device.type == "cpu" else 64,
            processes=self.processes,
            label="evaluate",
            anew=True,
            keep_bar=False,
        )
        return {
            "images": self.protocol.num_images,
            "guidance_scale": self.protocol.guidance_scale,
            "steps": self.protocol.steps,
            "metrics": self.evaluators.distances(self.files) | self.evaluators.alignment(self.files, self.prompts),
        }

"""The three graphs of a pipeline that other runtimes compute, and the solver as numbers.

    text     token ids and mask of prompts -> text made ready for the fused blocks      once a prompt
    guided   latents, times, guidance scales, text, null text -> the guided prediction   once a step
    decoder  latents at the end -> images in [0, 1]                                       once an image

Between them is linear algebra only: the state after step k is a weighted sum of the initial latents and of the predictions so
far. `solver_weights` has the weights, for every solver that draws no noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ifuvit.diffusion.sampling import sample_steps
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.encoders.text_encoder import NULL_CAPTION
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import to_dict

FIELDS = EncodedText._fields


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A module with what an exporter asks for."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    """Examples, by name, of two prompts or images, and of one null caption, of which there is always one."""
    outputs: tuple[str, ...]

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """As torch.export takes them, for the arguments of `forward`: the batch is free."""
        free = {0: torch.export.Dim.DYNAMIC}
        shapes = tuple({} if self._is_fixed(name) else free for name in self.inputs)
        named = [name for name in self.inputs if not name.startswith(("text_", "null_"))]
        return (*shapes[: len(named)], shapes[len(named) :]) if len(named) < len(shapes) else shapes

    def of_batch(self, batch: int) -> dict[str, Tensor]:
        """Inputs of another batch, the examples' rows over and over."""
        rows = torch.arange(batch)
        return {
            name: value if self._is_fixed(name) else value[rows % value.shape[0]] for name, value in self.inputs.items()
        }

    @torch.no_grad()
    def difference(self, compute: Callable[[dict[str, Tensor]], Sequence[Tensor]]) -> float:
        """Largest difference of another runtime's results from the module's, over batches of 1, 2 and 3."""
        worst = 0.0
        for batch in (1, 2, 3):
            inputs = self.of_batch(batch)
            wanted = self.module(*inputs.values())
            for want, found in zip(wanted if isinstance(wanted, tuple) else (wanted,), compute(inputs), strict=True):
                assert found.shape == want.shape
                worst = max(worst, float((found.double() - want.double()).abs().max()))
        return worst

    def _is_fixed(self, name: str) -> bool:
        return name.startswith("null_")


class _Text(nn.Module):
    """Token ids and mask (B, L) -> the tensors of an `EncodedText` that are there."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.encoder, self.language_model, self.backbone = (
            pipeline.text_encoder,
            pipeline.text_encoder.model,
            pipeline.model,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        hidden = None
        if (
            self.encoder.masked
        ):  # added to the scores as it is; what transformers makes of a mask (B, L) fixes the batch
            hidden = (1 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min
        text = self.backbone.encode_text(self.encoder.states(input_ids, hidden), attention_mask.bool())
        return tuple(part for part in text if part is not None)


class _Guided(nn.Module):
    """A guided step of the backbone; what both branches share is computed once."""

    def __init__(self, backbone: IFUViT, present: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone, self.present = backbone, present

    def forward(self, latents: Tensor, timesteps: Tensor, guidance_scale: Tensor, *parts: Tensor) -> Tensor:
        count = len(self.present)
        text, null_text = (
            EncodedText(**{name: given.get(name) for name in FIELDS})  # type: ignore[arg-type]
            for given in (dict(zip(self.present, half, strict=True)) for half in (parts[:count], parts[count:]))
        )
        return self.backbone.guided(latents, timesteps, text, null_text, guidance_scale)


class _Decoder(nn.Module):
    """Normalized latents (B, C, h, w) -> images (B, 3, H, W) in [0, 1]."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.vae, self.normalization = pipeline.autoencoder.vae, pipeline.normalization

    def forward(self, latents: Tensor) -> Tensor:
        pixels = cast(Any, self.vae.decode(self.normalization.denormalize(latents))).sample
        return (pixels / 2 + 0.5).clamp(0, 1)


def make_graphs(pipeline: Pipeline) -> list[Graph]:
    """The graphs of a pipeline on the CPU, in the order of their use."""
    # Attention as products and a softmax: the fused kernels choose by the mask's values, which a graph cannot.
    pipeline.text_encoder.model.set_attn_implementation("eager")
    c, encoder = pipeline.model.config, pipeline.text_encoder
    tokens = encoder.tokenize(["three sheep on grass", "a bus"])
    null = encoder.tokenize([NULL_CAPTION])
    ids, mask = tokens.ids.long(), tokens.mask.long()
    text_module = _Text(pipeline).eval()
    with torch.no_grad():
        text, null_text = text_module(ids, mask), text_module(null.ids.long(), null.mask.long())
        encoded = pipeline.model.encode_text(encoder.encode(tokens), tokens.mask)
    present = tuple(name for name in FIELDS if getattr(encoded, name) is not None)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, c.latent_channels, c.latent_size, c.latent_size, generator=generator)
    return [
        Graph(
            name="text",
            module=text_module,
            inputs={"input_ids": ids, "attention_mask": mask},
            outputs=tuple(f"text_{name}" for name in present),
        ),
        Graph(
            name="guided",
            module=_Guided(pipeline.model, present).eval(),
            inputs={
                "latents": latents,
                "timesteps": torch.tensor([900.0, 35.5]),
                "guidance_scale": torch.tensor([4.0, 1.5]),
                **{f"text_{name}": part for name, part in zip(present, text, strict=True)},
                **{f"null_{name}": part for name, part in zip(present, null_text, strict=True)},
            },
            outputs=("prediction",),
        ),
        Graph(name="decoder", module=_Decoder(pipeline).eval(), inputs={"latents": latents}, outputs=("images",)),
    ]


def sampler(pipeline: Pipeline, steps: int) -> dict[str, Any]:
    """The content of sampler.json: the solver, and what the graphs are fed."""
    c, encoder = pipeline.model.config, pipeline.text_encoder
    start, null = pipeline.initial_latents, encoder.tokenize([NULL_CAPTION])
    return {
        **solver_weights(pipeline, SamplingSettings(steps=steps)),
        "latents": [c.latent_channels, c.latent_size, c.latent_size],
        "initial_latents": None if start is None else to_dict(start),
        "image_size": pipeline.image_size,
        "text_encoder": encoder.reference,
        "max_tokens": encoder.max_tokens,
        "null_input_ids": null.ids[0].tolist(),
        "null_attention_mask": null.mask[0].long().tolist(),
    }


def solver_weights(pipeline: Pipeline, settings: SamplingSettings) -> dict[str, Any]:
    """The solver as numbers, JSON values: "times", what the network is fed at each step; "guided", whether guidance is on
    there; and "weights", a row for each step: the state after it is row[0] * initial latents + sum of row[1 + k] * prediction k.

    Every solver that draws no noise is linear in both, so it is run once on their coefficients.

    Raises:
        InputError: a solver of another objective.
    """
    settings = settings.changed(solver=pipeline.objective.resolve_solver(settings.solver), guidance_rescale=0.0)
    steps = settings.steps
    basis = torch.eye(steps + 1)
    times: list[float] = []
    scales: list[float] = []

    class Probe:
        """Its prediction k is the k-th basis vector."""

        def guided(
            self, latents: Tensor, timesteps: Tensor, text: object, null_text: object, *, guidance_scale: float
        ) -> Tensor:
            times.append(float(timesteps[0]))
            scales.append(guidance_scale)
            return basis[len(times)].view(latents.shape)

    start = basis[0].view(1, 1, 1, -1)
    states = [
        step.latents.flatten().tolist()[: step.done + 1]
        for step in sample_steps(Probe(), start, None, None, settings, objective=pipeline.objective)
    ]
    return {
        "solver": settings.solver,
        "times": times,
        "guided": [scale != 1 for scale in scales],
        "guidance_scale": settings.guidance_scale,
        "weights": states,
    }

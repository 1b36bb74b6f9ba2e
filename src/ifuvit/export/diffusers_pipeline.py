"""A pipeline directory as a pipeline of diffusers: `DiffusionPipeline.from_pretrained(DIRECTORY, trust_remote_code=True)`.

The images are those of `ifuvit.Pipeline` for the same initial latents; arguments and results mean what they mean in diffusers.
A directory's pipeline.py imports this module and has no code of its own.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.objective import OBJECTIVES
from ifuvit.diffusion.sampling import sample_steps, with_means
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, InitialLatents, SamplingSettings
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.model_card import Card
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_object

_SOLVERS = {
    "DPMSolverMultistepScheduler": "dpm++2m",
    "UniPCMultistepScheduler": "unipc",
    "DDIMScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "FlowMatchEulerDiscreteScheduler": "euler",
}


class _InPrecision:
    """The backbone for a solver that works in fp32, whatever the precision of its weights."""

    def __init__(self, backbone: IFUViT) -> None:
        self.backbone = backbone

    def guided(
        self, latents: Tensor, timesteps: Tensor, text: EncodedText, null_text: EncodedText, *, guidance_scale: float
    ) -> Tensor:
        return self.backbone.guided(latents.to(self.backbone.dtype), timesteps, text, null_text, guidance_scale)


class IFUViTPipeline(DiffusionPipeline):
    """Text to image with an intermediate fusion ViT.

    Args:
        transformer: the backbone.
        scheduler: its class chooses the solver, on ifuvit's own grid of times (docs/sampling.md):
            `pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)`.
        vae: the autoencoder.
        text_encoder, tokenizer: default: those that `text` refers to.
        objective, latent_normalization, initial_latents, time_offset, autoencoder, text: entries of model_index.json.

    Raises:
        InputError: parts that do not fit each other, or a text encoder that cannot be had here.
    """

    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]
    # Not registered for `enable_model_cpu_offload`: its hooks watch `forward`, and sampling calls other methods.
    model_cpu_offload_seq = None

    def __init__(
        self,
        transformer: IFUViT,
        scheduler: Any,
        vae: AutoencoderKL,
        text_encoder: Any = None,
        tokenizer: Any = None,
        objective: Mapping[str, Any] | None = None,
        latent_normalization: Mapping[str, Any] | None = None,
        initial_latents: Mapping[str, Any] | None = None,
        time_offset: int | None = None,
        autoencoder: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        assert objective is not None and latent_normalization is not None and text is not None
        encoder = TextEncoder.from_pretrained(
            text["reference"], max_tokens=text["max_tokens"], layers=text.get("layers"), device=vae.device
        )
        if text.get("fingerprint") not in (None, encoder.fingerprint):
            raise InputError(f"text encoder {text['reference']}: not the version that the model was trained with")
        self._encoder = encoder
        self._objective = from_dict(OBJECTIVES[objective["name"]], objective, where="objective")
        self._normalization = from_dict(LatentNormalization, latent_normalization, where="latent_normalization")
        self._distribution = (
            None
            if initial_latents is None
            else from_dict(InitialLatentsDistribution, initial_latents, where="initial_latents")
        )
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder or encoder.model,
            tokenizer=tokenizer or encoder.tokenizer,
        )
        self.register_to_config(
            objective=objective,
            latent_normalization=latent_normalization,
            initial_latents=initial_latents,
            time_offset=time_offset,
            autoencoder=autoencoder,
            text=text,
        )
        self._as_ifuvit()  # checks that the parts fit
        self.vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._interrupt, self._guidance_scale, self._num_timesteps = False, DEFAULT_SETTINGS.guidance_scale, 0

    @property
    def interrupt(self) -> bool:
        """Whether the present call ends after the present step: a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def guidance_scale(self) -> float:
        """Of the latest call."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Solver steps of the latest call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int = DEFAULT_SETTINGS.steps,
        guidance_scale: float = DEFAULT_SETTINGS.guidance_scale,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["IFUViTPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
        | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_interval: tuple[float, float] = DEFAULT_SETTINGS.guidance_interval,
        guidance_rescale: float = DEFAULT_SETTINGS.guidance_rescale,
        initial_latents: InitialLatents = DEFAULT_SETTINGS.initial_latents,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            prompt: one or several.
            num_inference_steps: evaluations of the guided network.
            guidance_scale: the standard w; 1 or less is no guidance.
            negative_prompt: takes the null caption's place, one for all prompts or one for each.
            num_images_per_prompt: images of a prompt, which come one after the other.
            generator: draws the initial latents, one for all images or one for each; default: torch's own.
            latents: (N, C, H, W), instead: the state at time 1000, which the solver starts from.
            output_type: "pil", "np" (N, H, W, 3) and "pt" (N, 3, H, W) in [0, 1], or "latent", normalized as the backbone's.
            return_dict: return an `ImagePipelineOutput` and not a tuple.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}) after every step; "latents" in what it
                returns go on in their place. It may set `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: names in that dictionary; "latents" is the only one.
            guidance_interval, guidance_rescale, initial_latents: as in `ifuvit.SamplingSettings`.

        Raises:
            InputError: numbers of prompts, generators or latents that do not agree, or settings outside their range.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise InputError("prompt: give at least one")
        if isinstance(negative_prompt, str) or negative_prompt is None:
            negatives = [negative_prompt or ""]
        else:
            negatives = list(negative_prompt)
            if len(negatives) != len(prompts):
                raise InputError(
                    f"negative_prompt has {len(negatives)} texts, prompt {len(prompts)}; give as many, or one"
                )
        if num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt={num_images_per_prompt}: must be at least 1")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise InputError(f"output_type={output_type!r}: give 'pil', 'np', 'pt' or 'latent'")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise InputError(f"callback_on_step_end_tensor_inputs has {unknown.pop()!r}; only 'latents' can be had")
        count = len(prompts) * num_images_per_prompt
        generators = [generator] * count if isinstance(generator, torch.Generator) else generator
        if generators is not None and len(generators) != count:
            raise InputError(
                f"generator has {len(generators)} generators for {count} images; give one, or one for each"
            )
        settings = SamplingSettings(
            solver=self._solver(),  # type: ignore[arg-type]  # names of settings, but for type checkers texts
            steps=num_inference_steps,
            guidance_scale=max(guidance_scale, 1.0),
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            initial_latents=initial_latents,
        )
        self._interrupt, self._guidance_scale, self._num_timesteps = False, guidance_scale, num_inference_steps

        device = self._execution_device
        copies = torch.arange(len(prompts), device=device).repeat_interleave(num_images_per_prompt)
        text = self._encode(prompts).rows(copies)
        null_text = self._encode(negatives)
        if len(negatives) > 1:
            null_text = null_text.rows(copies)
        states = self._start(latents, count, generator, initial_latents, device)
        steps = sample_steps(
            _InPrecision(self.transformer),
            states,
            text,
            null_text,
            settings,
            objective=self._objective,
            generators=generators or [torch.Generator().manual_seed(torch.seed()) for _ in range(count)],
        )
        changed = None
        with cast(Any, self).progress_bar(total=num_inference_steps) as bar:
            for _ in range(num_inference_steps):
                step = steps.send(changed)
                states, changed = step.latents, None
                if callback_on_step_end is not None:
                    given = dict.fromkeys(callback_on_step_end_tensor_inputs, states)
                    states = changed = (callback_on_step_end(self, step.done - 1, step.timestep, given) or {}).get(
                        "latents", states
                    )
                bar.update()
                if self._interrupt:
                    break

        if output_type == "latent":
            images: Any = states
        else:
            unscaled = self._normalization.denormalize(states).to(self.vae.dtype)
            pixels = self.vae.decode(unscaled).sample.float()
            images = self.image_processor.postprocess(pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the directory as `ifuvit.Pipeline` does, whole or not at all; both load it."""
        self._as_ifuvit().save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, card: Card, **options: Any) -> str:
        """`ifuvit.Pipeline.push_to_hub`."""
        return self._as_ifuvit().push_to_hub(repo_id, card, **options)

    def _start(
        self,
        latents: Tensor | None,
        count: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        initial_latents: InitialLatents,
        device: torch.device,
    ) -> Tensor:
        """The state at time 1000, (N, C, H, W) float32."""
        c = self.transformer.config
        shape = (count, c.latent_channels, c.latent_size, c.latent_size)
        if latents is not None:
            if tuple(latents.shape) != shape:
                raise InputError(f"latents of shape {tuple(latents.shape)}: {count} images take {shape}")
            return latents.to(device, torch.float32)
        draws: Any = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        noise = randn_tensor(shape, generator=draws, device=device, dtype=torch.float32)
        if self._distribution is None or initial_latents == "noise":
            return noise
        normal = randn_tensor(shape[:2], generator=draws, device=device, dtype=torch.float32)
        return with_means(noise, normal.double().cpu().numpy(), self._distribution)

    def _encode(self, captions: list[str]) -> EncodedText:
        embeddings, mask = self._text_encoder()(captions)
        return self.transformer.encode_text(embeddings.to(self.transformer.dtype), mask)

    def _text_encoder(self) -> TextEncoder:
        """Of the registered model and tokenizer, which a user may have moved or replaced."""
        encoder = copy.copy(self._encoder)
        encoder.model, encoder.tokenizer = self.text_encoder, self.tokenizer
        return encoder

    def _solver(self) -> str:
        """The solver that the scheduler's class stands for."""
        name = type(self.scheduler).__name__
        if name == "DPMSolverSinglestepScheduler":
            return "ddim" if self.scheduler.config["solver_order"] == 1 else "dpm++"
        if name not in _SOLVERS:
            known = ", ".join(["DPMSolverSinglestepScheduler", *_SOLVERS])
            raise InputError(f"scheduler {name}: there is no solver for it; the schedulers are {known}")
        return _SOLVERS[name]

    def _as_ifuvit(self) -> Pipeline:
        training = Path(self.config.get("_name_or_path") or "") / "training.json"
        vae = (
            self.vae if self.vae.dtype == torch.float32 else copy.deepcopy(self.vae)
        )  # `Autoencoder` widens it in place
        return Pipeline(
            self.transformer,
            Autoencoder(vae, reference="vae"),
            self._text_encoder(),
            normalization=self._normalization,
            objective=self._objective,
            initial_latents=self._distribution,
            training=read_object(training) if training.is_file() else None,
            device=self.vae.device,
        )

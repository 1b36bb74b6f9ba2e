"""A pipeline directory in diffusers' hands: the same images, and arguments that mean what they mean there."""

import numpy as np
import pytest
import torch

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.objective import Flow
from ifuvit.diffusion.sampling import initial_latents
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.pipeline import Pipeline
from ifuvit.utils.errors import InputError

PROMPTS = ["two sheep", "a red bus"]
SHAPE = (4, 4, 4)
FLOW = {
    "objective": Flow(prediction="clean", shift=2.0),
    "normalization": LatentNormalization(mean=(1.0, 0.0, -1.0, 2.0), scale=(0.5, 1.0, 2.0, 0.25)),
}
DDPM = {
    "normalization": LatentNormalization(scale=(0.5,)),
    "initial_latents": InitialLatentsDistribution(
        mean=(3.0, 0.0, -3.0, 1.0), covariance=tuple(map(tuple, np.eye(4).tolist()))
    ),
}


def load(directory, **arguments):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(directory, trust_remote_code=True, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ours(tiny_run, tmp_path_factory):
    """Pipelines of two objectives, with the directories they wrote."""
    loaded = Pipeline.from_pretrained(tiny_run)
    made = {}
    for name, parts in (("ddpm", DDPM), ("flow", FLOW)):
        directory = tmp_path_factory.mktemp(name) / "saved"
        made[name] = Pipeline(
            loaded.model, loaded.autoencoder, loaded.text_encoder, training={"steps": 3, "batch_size": 2}, **parts
        )
        made[name].save_pretrained(directory)
        made[f"{name} directory"] = directory
    return made


@pytest.fixture(scope="module")
def pipe(ours):
    return load(ours["ddpm directory"])


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("objective", ["ddpm", "flow"])
def test_the_images_are_ours(ours, objective):
    pipeline, pipe = ours[objective], load(ours[f"{objective} directory"])
    latents = initial_latents(SHAPE, 3, range(2), pipeline.initial_latents)
    for settings in (
        {},
        {"guidance_scale": 1.0},
        {"guidance_interval": (0.2, 0.7), "guidance_rescale": 0.7},
        {"negative_prompt": "a bus"},
    ):
        wanted = pixels(pipeline(PROMPTS, num_inference_steps=4, seed=3, **settings))
        found = pixels(pipe(PROMPTS, num_inference_steps=4, latents=latents, **settings).images)
        assert np.abs(found - wanted).max() <= 1, settings


def test_parts_load_with_the_classes_of_diffusers(ours):
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler

    for objective, scheduler in (("ddpm", DPMSolverSinglestepScheduler), ("flow", DPMSolverMultistepScheduler)):
        directory, pipeline = ours[f"{objective} directory"], ours[objective]
        assert scheduler.from_pretrained(directory, subfolder="scheduler").config["num_train_timesteps"] == 1000
        vae = AutoencoderKL.from_pretrained(directory, subfolder="vae")
        latents = torch.randn(1, *SHAPE)
        if objective == "ddpm":  # what diffusers' own pipelines do
            unscaled = latents / vae.config["scaling_factor"]
        else:
            mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
            unscaled = latents * std + mean
        wanted = pipeline.autoencoder.decode(pipeline.normalization.denormalize(latents))
        assert torch.allclose(vae.decode(unscaled).sample, wanted, atol=1e-5)


def test_prompts_and_copies(pipe):
    start = initial_latents(SHAPE, 0, range(4), None)
    images = pixels(pipe(PROMPTS, latents=start, num_images_per_prompt=2, num_inference_steps=3).images)
    one = pixels(pipe(PROMPTS[1], latents=start[2:3], num_inference_steps=3).images)
    assert np.abs(images[2] - one[0]).max() <= 1  # a prompt's images follow each other
    several = pixels(
        pipe(PROMPTS, latents=start[:2], negative_prompt=["a bus", "apples"], num_inference_steps=3).images
    )
    each = [
        pixels(pipe(prompt, latents=start[i : i + 1], negative_prompt=negative, num_inference_steps=3).images)[0]
        for i, (prompt, negative) in enumerate(zip(PROMPTS, ["a bus", "apples"], strict=True))
    ]
    assert np.abs(several - np.stack(each)).max() <= 1


def test_generators(pipe):
    def generate(generator, **arguments):
        return pixels(pipe(PROMPTS, generator=generator, num_inference_steps=2, **arguments).images)

    seeded = torch.Generator().manual_seed
    first = generate(torch.Generator().manual_seed(5))
    assert np.array_equal(first, generate(torch.Generator().manual_seed(5)))
    generator = torch.Generator().manual_seed(5)
    assert np.array_equal(first, generate(generator)) and not np.array_equal(first, generate(generator))  # it goes on
    assert not np.array_equal(generate(None), generate(None))
    apart = generate([torch.Generator().manual_seed(7), torch.Generator().manual_seed(8)])
    alone = pixels(pipe(PROMPTS[1], generator=torch.Generator().manual_seed(8), num_inference_steps=2).images)
    assert np.abs(apart[1] - alone[0]).max() <= 1
    assert not np.array_equal(first, generate(seeded(5), initial_latents="noise"))


def test_output_types(pipe):
    def generate(**arguments):
        return pipe("two sheep", latents=initial_latents(SHAPE, 0, [0], None), num_inference_steps=2, **arguments)

    image = pixels(generate().images)[0]
    array, tensor = generate(output_type="np").images, generate(output_type="pt").images
    assert array.shape == (1, 8, 8, 3) and tensor.shape == (1, 3, 8, 8)
    assert np.abs(array[0] * 255 - image).max() <= 0.5 and np.allclose(tensor[0].permute(1, 2, 0), array[0])
    assert generate(output_type="latent").images.shape == (1, *SHAPE)
    assert np.array_equal(pixels(generate(return_dict=False)[0])[0], image)


def test_callback(pipe):
    start, seen = initial_latents(SHAPE, 0, [0], None), []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), tensors["latents"].clone()))

    plain = pipe("two sheep", latents=start, num_inference_steps=4, output_type="latent", callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and seen[0][1] == 999.0
    assert torch.equal(seen[-1][2], plain.images)

    def replace(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] + 1} if step == 1 else tensors

    changed = pipe(
        "two sheep", latents=start, num_inference_steps=4, output_type="latent", callback_on_step_end=replace
    )
    assert (changed.images - plain.images).abs().max() > 1e-3

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return tensors

    stopped = pipe("two sheep", latents=start, num_inference_steps=4, output_type="latent", callback_on_step_end=stop)
    assert torch.equal(stopped.images, seen[1][2])
    again = pipe("two sheep", latents=start, num_inference_steps=4, output_type="latent")
    assert torch.equal(again.images, plain.images)


def test_the_scheduler_chooses_the_solver(ours, pipe):
    from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler

    latents, kept = initial_latents(SHAPE, 0, [0], ours["ddpm"].initial_latents), pipe.scheduler
    try:
        for scheduler, solver in ((UniPCMultistepScheduler, "unipc"), (DDIMScheduler, "ddim")):
            pipe.scheduler = scheduler.from_config(kept.config)
            found = pixels(pipe("two sheep", latents=latents, num_inference_steps=4).images)
            wanted = pixels(ours["ddpm"](["two sheep"], num_inference_steps=4, solver=solver))
            assert np.abs(found - wanted).max() <= 1
        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(kept.config)
        drawn = [
            pixels(pipe("two sheep", generator=torch.Generator().manual_seed(1), num_inference_steps=4).images)
            for _ in range(2)
        ]
        assert np.array_equal(*drawn)
        pipe.scheduler = PNDMScheduler.from_config(kept.config)
        with pytest.raises(InputError, match="scheduler PNDMScheduler: there is no solver for it"):
            pipe("two sheep")
    finally:
        pipe.scheduler = kept


def test_saving_again(ours, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(tmp_path / "again")
    assert again.training == {"steps": 3, "batch_size": 2}
    arrays = [pixels(one(PROMPTS, num_inference_steps=3)) for one in (ours["ddpm"], again)]
    assert np.array_equal(*arrays)


def test_half_precision(ours):
    half, whole = load(ours["ddpm directory"], torch_dtype=torch.bfloat16), load(ours["ddpm directory"])
    assert half.transformer.dtype == half.vae.dtype == torch.bfloat16
    latents = initial_latents(SHAPE, 0, range(2), None)
    arrays = [pixels(pipe(PROMPTS, latents=latents, num_inference_steps=4).images) for pipe in (half, whole)]
    assert 0 < np.abs(arrays[0] - arrays[1]).mean() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, "prompt: give at least one"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts, prompt 1"),
        ({"generator": [torch.Generator()] * 3}, "generator has 3 generators for 1 images"),
        ({"latents": torch.zeros(2, *SHAPE)}, r"latents of shape \(2, 4, 4, 4\): 1 images take"),
        ({"output_type": "jpeg"}, "output_type='jpeg'"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"num_inference_steps": 0}, "--steps 0: must be from 1 to 1000"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "only 'latents' can be had"),
    ],
)
def test_invalid_input(pipe, arguments, message):
    with pytest.raises(InputError, match=message):
        pipe(**{"prompt": "a bus", **arguments})

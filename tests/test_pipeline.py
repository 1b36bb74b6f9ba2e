"""The pipeline: same images whatever the batch, everything encoded once, and mismatched parts refused."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pipeline import MODEL, tiny_model, write_text_encoder, write_vae

import ifuvit
from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.objective import DDPM, Flow
from ifuvit.diffusion.sampling import initial_noise, sample
from ifuvit.diffusion.settings import PAPER_SETTINGS, SamplingSettings
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.uvit import IFUViT
from ifuvit.pipeline import Pipeline
from ifuvit.utils.errors import InputError

UNIT = LatentNormalization(scale=(1.0,))
PROMPTS = ["two sheep", "a bus", "two sheep", "three apples on grass", "a red bus"]


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A run directory to spoil."""
    shutil.copytree(tiny_run / "pipeline", tmp_path / "run" / "pipeline")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def pipeline(tiny_run):
    return Pipeline.from_pretrained(tiny_run)


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_images(pipeline):
    images = pipeline(PROMPTS, num_inference_steps=4, seed=3)
    assert [(image.mode, image.size) for image in images] == [("RGB", (8, 8))] * 5
    assert pipeline.image_size == 8
    array = pixels(images)
    assert np.array_equal(array, pixels(pipeline(PROMPTS, num_inference_steps=4, seed=3)))
    assert not np.array_equal(array[0], array[2])  # the same prompt, another index
    assert not np.array_equal(array, pixels(pipeline(PROMPTS, num_inference_steps=4, seed=4)))
    assert pipeline([]) == []


def test_a_seed_for_each_image(pipeline):
    seeds, settings = [7, 3, 7, 2**40, 0], {"num_inference_steps": 4, "solver": "euler-a"}
    together = pixels(pipeline(PROMPTS, seed=seeds, batch_size=2, **settings))
    alone = pixels([pipeline([prompt], seed=seed, **settings)[0] for prompt, seed in zip(PROMPTS, seeds)])
    assert abs(together - alone).max() <= 1
    assert abs(together[0] - together[2]).max() <= 1  # the same prompt and seed


def test_every_argument_matters(pipeline):
    base = pixels(pipeline(["two sheep"], num_inference_steps=4))
    changes = [
        {"prompts": ["three red apples"]},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a bus on grass"},
        {"solver": "ddim"},
        {"solver": "euler-a"},
        {"num_inference_steps": 7},
        {"first_index": 1},
    ]
    for change in changes:
        other = pixels(pipeline(**{"prompts": ["two sheep"], "num_inference_steps": 4, **change}))
        assert not np.array_equal(base, other), change
    assert np.array_equal(base, pixels(pipeline(["two sheep"], num_inference_steps=4, negative_prompt="")))


def test_a_model_that_guides_without_a_text_pass_takes_no_negative_prompt(pipeline):
    from dataclasses import replace

    from ifuvit.model.uvit import IFUViT

    model = IFUViT(replace(pipeline.model.config, n_image=1, path_drop=True)).eval()
    other = Pipeline(model, pipeline.autoencoder, pipeline.text_encoder, normalization=pipeline.normalization)
    assert len(other(["two sheep"], num_inference_steps=2)) == 1
    with pytest.raises(InputError, match="negative_prompt='a bus' and path_drop=True"):
        other(["two sheep"], num_inference_steps=2, negative_prompt="a bus")


def test_settings_are_one_value_or_keywords(pipeline):
    settings = SamplingSettings(solver="ddim", steps=3, guidance_scale=2.0)
    whole = pixels(pipeline(["two sheep"], settings, seed=1))
    assert np.array_equal(
        whole, pixels(pipeline(["two sheep"], guidance_scale=2.0, num_inference_steps=3, solver="ddim", seed=1))
    )
    assert np.array_equal(whole, pixels(pipeline(["two sheep"], settings.changed(steps=9), steps=3, seed=1)))


@pytest.mark.parametrize("solver", ["dpm++", "euler-a"])
def test_an_image_does_not_depend_on_the_batch(pipeline, solver):
    together = pixels(pipeline(PROMPTS, num_inference_steps=4, solver=solver, batch_size=5))
    for size in (1, 2, 4):
        apart = pixels(pipeline(PROMPTS, num_inference_steps=4, solver=solver, batch_size=size))
        assert np.abs(apart - together).max() <= 1
    last = pixels(pipeline(PROMPTS[3:], num_inference_steps=4, solver=solver, first_index=3))
    assert np.abs(last - together[3:]).max() <= 1


def test_exact_images_are_those_of_two_plain_passes():
    """The shipped model's 50 steps by the formula, noise_null + w (noise_text - noise_null), each term a whole forward pass
    on the caption's states: the same images to 1e-4 of their range."""
    shipped = Pipeline.from_pretrained()
    prompts = ["three sheep", "a bus left of a tree"]

    class Plain:
        def guided(self, latents, timesteps, text, null_text, guidance_scale):
            conditional, null = (shipped.model(latents, timesteps, *given) for given in (text, null_text))
            return null + guidance_scale * (conditional - null)

    c = shipped.model.config
    noise = initial_noise((c.latent_channels, c.latent_size, c.latent_size), 0, range(2))
    with torch.no_grad():
        states, null = shipped.text_encoder(prompts), shipped.text_encoder(["", ""])
        found = [
            sample(model, noise, text, null_text, PAPER_SETTINGS, objective=shipped.objective)
            for model, text, null_text in (
                (Plain(), states, null),
                (shipped.model, shipped.model.encode_text(*states), shipped.model.encode_text(*null)),
            )
        ]
        plain, shared = (
            shipped.autoencoder.decode(shipped.normalization.denormalize(latents)) / 2 for latents in found
        )
    assert float((plain - shared).abs().max()) < 1e-4
    images = shipped(prompts, PAPER_SETTINGS)
    assert np.abs(pixels(images) - pixels(shipped.decode(found[0]))).max() <= 1


def test_each_prompt_is_encoded_once(pipeline, monkeypatch):
    seen, steps = [], []
    encode = pipeline.text_encoder.__class__.__call__
    monkeypatch.setattr(
        pipeline.text_encoder.__class__,
        "__call__",
        lambda self, captions: seen.extend(captions) or encode(self, captions),
    )
    blocks = []
    monkeypatch.setattr(
        pipeline.model, "encode_text", lambda *a: blocks.append(len(a[0])) or IFUViT.encode_text(pipeline.model, *a)
    )
    pipeline(PROMPTS, num_inference_steps=3, batch_size=2, callback=steps.append)
    assert seen == ["two sheep", "a bus", "three apples on grass", "a red bus", ""]
    assert sum(blocks) == 5
    assert steps == [2] * 3 + [2] * 3 + [1] * 3


def test_long_prompts_are_counted(pipeline):
    long = "a red bus left of three sheep on grass"
    with pytest.warns(UserWarning, match="2 of 3 prompts are longer than the text encoder's 8 tokens"):
        pipeline([long, long + " right", "a bus"], num_inference_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline(["a bus"], num_inference_steps=1)


def test_precision(pipeline, tiny_run):
    half = Pipeline.from_pretrained(tiny_run, dtype=torch.bfloat16)
    difference = pixels(half(PROMPTS, num_inference_steps=4)) - pixels(pipeline(PROMPTS, num_inference_steps=4))
    assert 0 < np.abs(difference).mean() < 6


def test_save_and_load(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "vae" / "config.json").is_file()  # the autoencoder travels along
    again = ifuvit.Pipeline.from_pretrained(tmp_path / "saved")
    assert again.normalization == pipeline.normalization and again.objective == DDPM()
    arrays = [pixels(p(PROMPTS, num_inference_steps=3)) for p in (pipeline, again)]
    assert np.array_equal(*arrays)
    assert again.model.config == MODEL
    again.save_pretrained(tmp_path / "saved")  # onto itself
    assert np.array_equal(
        arrays[0], pixels(Pipeline.from_pretrained(tmp_path / "saved")(PROMPTS, num_inference_steps=3))
    )


def test_the_colors_of_training_are_saved_and_started_from(pipeline, tmp_path, monkeypatch):
    plain = pixels(pipeline(PROMPTS, num_inference_steps=3))  # this one knows none
    distribution = InitialLatentsDistribution(
        mean=(3.0, 0.0, -3.0, 1.0), covariance=tuple(map(tuple, np.eye(4).tolist()))
    )
    monkeypatch.setattr(pipeline, "initial_latents", distribution)
    pipeline.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved")
    assert again.initial_latents == distribution
    assert np.array_equal(pixels(again(PROMPTS, num_inference_steps=3, initial_latents="noise")), plain)
    started = pixels(again(PROMPTS, num_inference_steps=3))
    assert not np.array_equal(started, plain)
    alone = pixels(again(PROMPTS[1:2], num_inference_steps=3, first_index=1))
    assert np.abs(alone - started[1:2]).max() <= 1


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_a_flow_model_is_saved_and_sampled(pipeline, tmp_path, prediction):
    """Its objective decides solver, grid and what its predictions are; guidance and batches work as for the other one."""
    flow = Flow(prediction=prediction, shift=2.0)
    by_channel = LatentNormalization(mean=(1.0, 0.0, -1.0, 2.0), scale=(0.5, 1.0, 2.0, 0.25))
    parts = (pipeline.model, pipeline.autoencoder, pipeline.text_encoder)
    made = Pipeline(*parts, objective=flow, normalization=by_channel)
    made.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved")
    assert again.objective == flow and again.normalization == by_channel and again.initial_latents is None
    images = pixels(made(PROMPTS, num_inference_steps=4))
    assert np.array_equal(pixels(again(PROMPTS, num_inference_steps=4, solver="dpm++2m")), images)
    alone = pixels(again(PROMPTS[1:2], num_inference_steps=4, first_index=1))
    assert np.abs(alone - images[1:2]).max() <= 1
    for changes in (
        {"solver": "heun"},
        {"solver": "euler"},
        {"guidance_scale": 1.0},
        {"guidance_interval": (0.5, 1.0)},
    ):
        assert not np.array_equal(pixels(made(PROMPTS, num_inference_steps=4, **changes)), images), changes
    other = "clean" if prediction == "velocity" else "velocity"
    as_other = Pipeline(*parts, objective=Flow(prediction=other, shift=2.0), normalization=by_channel)
    assert not np.array_equal(pixels(as_other(PROMPTS, num_inference_steps=4)), images)
    with pytest.raises(InputError, match="solver 'ddim' is one of ddpm models; this is a flow model"):
        made(PROMPTS, solver="ddim")


def test_the_first_pipelines_have_a_scale_alone(copy):
    index = copy / "pipeline" / "model_index.json"
    values = json.loads(index.read_text())
    del values["objective"], values["latent_normalization"]
    values.update(_class_name="IFUViTPipeline", latent_scale=0.25, vae=values.pop("autoencoder"))
    (copy / "pipeline" / "text_encoder.json").write_text(json.dumps(values.pop("text")))
    index.write_text(json.dumps(values))
    (copy / "pipeline" / "checksums.json").unlink()
    old = Pipeline.from_pretrained(copy)
    assert old.objective == DDPM() and old.normalization == LatentNormalization(scale=(0.25,))


def test_decode_undoes_the_latent_scale(pipeline):
    latents = torch.randn(2, 4, 4, 4)
    want = pipeline.autoencoder.decode(latents / 0.5)
    got = pixels(pipeline.decode(latents)) / 127.5 - 1
    assert np.abs(got - want.clamp(-1, 1).permute(0, 2, 3, 1).numpy()).max() < 0.5 / 127
    with pytest.raises(InputError, match="not finite"):
        pipeline.decode(latents * float("nan"))


def test_layout(tiny_run):
    directory = tiny_run / "pipeline"
    index = json.loads((directory / "model_index.json").read_text())
    assert index["latent_normalization"] == {"mean": [0.0], "scale": [0.5]} and index["time_offset"] == 1
    assert index["objective"] == {"name": "ddpm", "snr_gamma": None}
    assert set(index["autoencoder"]) == {"reference", "fingerprint"}
    assert set(index["text"]) == {"reference", "fingerprint", "max_tokens", "layers"}
    assert {path.name for path in directory.iterdir()} == {
        "checksums.json",
        "model_index.json",
        "pipeline.py",
        "scheduler",
        "transformer",
    }
    from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler

    scheduler = DPMSolverSinglestepScheduler.from_pretrained(directory / "scheduler")
    assert scheduler.config["solver_order"] == 3 and scheduler.config["beta_start"] == 0.00085


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_text_encoder_is_refused(copy, tmp_path):
    other = write_text_encoder(tmp_path / "other", seed=1)
    index = copy / "pipeline" / "model_index.json"
    text = {**json.loads(index.read_text())["text"], "reference": str(other)}
    edit(index, text=text)
    with pytest.raises(InputError, match="made with another text encoder than the .*other"):
        Pipeline.from_pretrained(copy)
    edit(index, text={**text, "fingerprint": None})
    (copy / "pipeline" / "checksums.json").unlink()
    Pipeline.from_pretrained(copy)


def test_another_autoencoder_is_refused(copy):
    write_vae(copy / "pipeline" / "vae", seed=1)  # one inside the directory goes before the reference
    with pytest.raises(InputError, match="made with another autoencoder"):
        Pipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"time_offset": 0}, "time_offset is 0"),
        ("model_index.json", {"latent_normalization": None}, "latent_normalization"),
        ("model_index.json", {"objective": {"name": "magic"}}, "objective: 'magic' is not one of ddpm, flow"),
        ("model_index.json", {"objective": {"name": "flow"}}, "time_offset is 1, not 0 as with objective flow"),
        ("model_index.json", {"latent_scale": -1}, "must be positive"),
        (
            "model_index.json",
            {"initial_latents": {"mean": [0], "covariance": [[1]]}},
            "initial_latents has 1 channels, the backbone 4",
        ),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "not a pipeline of ifuvit"),
        ("model_index.json", {"autoencoder": None}, "autoencoder.reference is missing"),
        ("model_index.json", {"text": {"reference": None}}, "text.reference or text.max_tokens is missing"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}, "beta_end is 0.02"),
    ],
)
def test_damaged_directories_are_refused(copy, file, changes, message):
    edit(copy / "pipeline" / file, **changes)
    with pytest.raises(InputError, match=message):
        Pipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("model_index.json", {"latent_normalization": {"mean": [0.0], "scale": [0.6]}}),
        ("pipeline.py", None),
        ("transformer/config.json", {"mask_padding": True}),
    ],
)
def test_values_that_fit_and_are_not_those_that_were_written(copy, file, changes):
    if changes is None:
        (copy / "pipeline" / file).write_text("import os")
    else:
        edit(copy / "pipeline" / file, **changes)
    with pytest.raises(InputError, match=f"{file}: its SHA-256 is not that of .*checksums.json: damaged"):
        Pipeline.from_pretrained(copy)


def test_parts_that_do_not_fit(pipeline):
    for change, message in (({"text_width": 24}, "of width 16"), ({"latent_channels": 3}, "4 latent channels")):
        with pytest.raises(InputError, match=message):
            Pipeline(
                tiny_model(replace(MODEL, **change)), pipeline.autoencoder, pipeline.text_encoder, normalization=UNIT
            )
    with pytest.raises(InputError, match="dtype"):
        Pipeline(tiny_model(), pipeline.autoencoder, pipeline.text_encoder, normalization=UNIT, dtype=torch.int8)


def test_mistakes(pipeline, tmp_path):
    for arguments, message in (
        ({"prompts": "a bus"}, "list of strings"),
        ({"prompts": ["a bus"], "solver": "magic"}, "--solver magic: unknown; the solvers are auto, dpm"),
        ({"prompts": ["a bus"], "solver": "euler"}, "solver 'euler' is one of flow models; this is a ddpm model"),
        ({"prompts": ["a bus"], "num_inference_steps": 0}, "--steps 0: must be from 1 to 1000"),
        ({"prompts": ["a bus"], "initial_latents": "red"}, "--initial-latents red: give one of data-mean, noise"),
        ({"prompts": ["a bus"], "sed": 1}, "unknown sampling setting 'sed'; the settings are solver, steps"),
        ({"prompts": ["a bus"], "batch_size": 0}, "batch_size=0"),
        ({"prompts": ["a bus"], "seed": -1}, "seed -1"),
        ({"prompts": ["a bus"], "seed": [1, 2]}, "seed has 2 numbers for 1 prompts; give one for each"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**arguments)
    with pytest.raises(InputError, match="no model"):
        Pipeline.from_pretrained(tmp_path / "nothing")

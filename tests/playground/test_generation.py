"""What the playground's page asks models for."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ifuvit.analysis.attention import record, word_maps
from ifuvit.analysis.common import open_models
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.pipeline import Pipeline
from ifuvit.playground.generation import generate
from ifuvit.playground.history import entries, write_archive
from ifuvit.playground.images import enlarged, overlay
from ifuvit.playground.messages import ALL_BLOCKS, Request, WordMaps
from ifuvit.utils.errors import InputError

SETTINGS = SamplingSettings(steps=3)
REQUEST = Request(prompt="three sheep on grass", seed=5, images=2, settings=SETTINGS)


@pytest.fixture(scope="module")
def pipeline(model) -> Pipeline:
    return Pipeline.from_pretrained(model)


def test_images_grow_and_end_as_those_of_the_pipeline(pipeline):
    progress = list(generate(pipeline, REQUEST))
    assert [one.finished for one in progress] == [False] * (len(progress) - 1) + [True]
    assert len(progress) > 1 and progress[-1].step >= 3
    wanted = pipeline([REQUEST.prompt] * 2, SETTINGS, seed=5)
    assert [image.tobytes() for image in progress[-1].images] == [image.tobytes() for image in wanted]
    assert all(len(one.images) == 2 for one in progress)


def test_a_negative_prompt_counts(pipeline):
    request = Request(prompt="a", negative_prompt="b", seed=0, images=1, settings=SETTINGS)
    (*_, last) = generate(pipeline, request)
    assert last.images[0].tobytes() == pipeline(["a"], SETTINGS, negative_prompt="b", seed=0)[0].tobytes()


def test_maps_are_those_of_analyze(pipeline, model):
    (*_, last) = generate(pipeline, REQUEST)
    assert isinstance(last.attention, WordMaps)
    (analyzed,) = open_models([model], torch.device("cpu"))
    recorded = record(analyzed, [REQUEST.prompt], SETTINGS, bands=1, seed=5)
    text = recorded.overall(recorded.text)[0]  # (blocks, heads, L, P)
    assert list(last.attention.maps) == [ALL_BLOCKS, *recorded.blocks]
    for place, name in enumerate(recorded.blocks):
        wanted = word_maps(text[place].mean(0), recorded.tokens[0])
        np.testing.assert_allclose(last.attention.maps[name][0].reshape(wanted.shape), wanted, atol=1e-6)
    mean = np.mean([last.attention.maps[name] for name in recorded.blocks], 0)
    np.testing.assert_allclose(last.attention.maps[ALL_BLOCKS], mean, atol=1e-6)


def test_closing_stops_the_sampling(pipeline):
    many = Request(prompt="a", seed=0, images=1, settings=SamplingSettings(steps=200))
    growing = generate(pipeline, many)
    first = next(growing)
    growing.close()  # returns when the thread has ended
    assert not first.finished and first.step < 100


def test_an_error_of_the_model_comes_out(pipeline):
    other = "euler-a" if pipeline.objective.name == "flow" else "heun"
    with pytest.raises(InputError, match="solver"):
        list(
            generate(pipeline, Request(prompt="a", seed=0, images=1, settings=SamplingSettings(steps=2, solver=other)))
        )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"seed": -1}, "seed -1"),
        ({"images": 9}, "images 9: must be from 1 to 8"),
        ({"images": 0}, "images 0"),
        ({"settings": SamplingSettings(steps=101)}, "steps 101: must be from 1 to 100"),
    ],
)
def test_limits(changes, what):
    request = Request(**{"prompt": "a", "seed": 0, "images": 1, "settings": SETTINGS, **changes})
    with pytest.raises(InputError, match=what):
        request.check(max_steps=100, max_images=8)


def test_a_prompt_without_maps_still_gives_images(pipeline):
    request = Request(prompt="sheep " * 200, seed=0, images=1, settings=SETTINGS)
    with pytest.warns(UserWarning, match="longer"):
        (*_, last) = generate(pipeline, request)
    assert isinstance(last.attention, str) and "shorten it" in last.attention and len(last.images) == 1


def test_overlay():
    values = np.zeros((2, 2))
    values[0, 1] = 0.3
    shown = np.asarray(overlay(Image.new("RGB", (8, 8), "gray"), values, size=4)).astype(int)
    assert shown.shape == (4, 4, 3)
    assert shown[0, 3].sum() > 2 * shown[3, 0].sum()  # the largest value is bright
    assert enlarged(Image.new("RGB", (64, 64))).size == (256, 256)


def test_the_archive_says_how_to_make_each_image_again(pipeline, tmp_path):
    (*_, last) = generate(pipeline, REQUEST)
    file = write_archive(entries("runs/mine", REQUEST, last.images), tmp_path / "h.zip")
    with zipfile.ZipFile(file) as archive:
        told = json.loads(archive.read("history.json"))["images"]
        assert archive.namelist() == [*(one["file"] for one in told), "history.json"]
        second = Image.open(archive.open(told[1]["file"]))
    assert told[1] | {"file": ""} == {
        "file": "",
        "model": "runs/mine",
        "prompt": REQUEST.prompt,
        "negative_prompt": "",
        "seed": 5,
        "index": 1,
        "solver": "auto",
        "steps": 3,
        "guidance_scale": 4.0,
        "guidance_interval": [0.0, 1.0],
        "guidance_rescale": 0.0,
        "initial_latents": "data-mean",
    }
    again = pipeline([told[1]["prompt"]], SETTINGS, seed=told[1]["seed"], first_index=told[1]["index"])
    assert np.abs(np.asarray(again[0]).astype(int) - np.asarray(second).astype(int)).max() <= 1

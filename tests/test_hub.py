"""Upload and download, against a hub on this machine; the model card; hubs that do not answer."""

import os
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import ModelCard
from tiny_hub import tiny_hub

from ifuvit import results
from ifuvit.model_card import Card
from ifuvit.pipeline import Pipeline
from ifuvit.shipped import find
from ifuvit.utils.errors import InputError

NAME = "someone/tiny"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, which huggingface_hub takes for the only one, with a cache of its own."""
    from huggingface_hub import constants

    with tiny_hub() as server:
        for name, value in (
            ("ENDPOINT", server.address),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("HF_TOKEN", "hf_nothing")
        yield server


@pytest.fixture
def pipeline(tiny_run, monkeypatch):
    """Its text encoder lies in a folder; for the hub it is called by a name."""
    made = Pipeline.from_pretrained(tiny_run)
    made.training = {
        "steps": 12_000,
        "batch_size": 64,
        "seed": 1,
        "seconds": 7200.0,
        "images": 38_000,
        "captions": 190_000,
    }
    monkeypatch.setattr(made.text_encoder, "reference", "someone/words")
    return made


def evaluation():
    metric = results.Metric(
        name="TwoTower score",
        value=0.76812,
        interval=(0.7591, 0.7783),
        subject="alignment",
        better="higher",
        reference=results.Reference(value=0.866, how="captions of the same images"),
    )
    scores = results.CountScores(images=200, right=results.Estimate(value=0.72, interval=(0.655, 0.78)))
    return results.Evaluation(
        command="evaluate",
        ifuvit_version="0.1.0",
        config={},
        target=results.Target(name="tiny", kind="ifuvit"),
        protocol={"name": "quick", "sampling": {"steps": 25, "guidance_scale": 2.0}},
        data=results.ReferenceData(where="scenes", images=1000, sha256="0"),
        metrics=(metric,),
        objects={"paper": results.ObjectCounts(counts=results.Counts(overall=scores, by_count={}))},
    )


def test_there_and_back(hub, pipeline, tiny_run, ifuvit, tmp_path):
    results.write(tmp_path / "quick.json", evaluation())
    hub.repositories["someone/words"] = {path.name: path.read_bytes() for path in (tiny_run / "text").iterdir()}
    address = pipeline.push_to_hub(
        NAME,
        Card(
            license="cc-by-4.0",
            about="Sheep.",
            datasets=("someone/sheep",),
            evaluations=(tmp_path / "quick.json",),
            prompts=("two sheep",),
        ),
    )
    assert address.startswith(hub.address)
    files = hub.repositories[NAME]
    assert {
        "README.md",
        "images/0.png",
        "model_index.json",
        "pipeline.py",
        "vae/config.json",
        "transformer/model.safetensors",
    } <= set(files)

    # The card, as the hub reads it.
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and card.data.datasets == ["someone/sheep"]
    assert card.data.pipeline_tag == "text-to-image" and card.data.library_name == "diffusers"
    assert card.data.widget == [{"text": "two sheep", "output": {"url": "images/0.png"}}]
    measured = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert measured == {"TwoTower score": 0.7681, "both": 0.72}
    for words in (
        "| 1,000 reference images | TwoTower score | 0.7681 [0.7591, 0.7783] | 0.866 |",
        "| counting prompts: paper | both | 72.0 [65.5, 78.0] % |",
        "12,000 steps of 64 images, 2.0 hours, seed 1",
        "38,000 images, 190,000 captions",
        f'ifuvit generate "two sheep" --model {NAME}',
        "cross-attention, intermediate fusion",
    ):
        assert words in card.text, words

    # Both ways back.
    again = Pipeline.from_pretrained(NAME)
    wanted, found = (np.stack(one(["two sheep"], num_inference_steps=2)) for one in (pipeline, again))
    assert np.array_equal(wanted, found)
    training = Pipeline.from_pretrained(f"{NAME}@main").training
    assert training is not None and training["steps"] == 12_000
    code = f"""
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{NAME}", trust_remote_code=True)
print(len(pipe("two sheep", num_inference_steps=2).images))
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout == "1\n", ran.stderr[-2000:]
    assert ifuvit("generate", "two sheep", "--model", NAME, "--steps=1", "--out", tmp_path / "images").status == 0


def test_refusals(hub, pipeline, tiny_run, refusal, tmp_path):
    hub.repositories["someone/other"] = {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}'}
    with pytest.raises(InputError, match="someone/other: the hub's model is not a pipeline of ifuvit"):
        find("someone/other")
    assert "someone/none: no such directory, and it cannot be downloaded from http://127" in refusal(
        "generate", "a bus", "--model", "someone/none", "--out", tmp_path / "x"
    )
    assert "no such repository" in refusal("generate", "a bus", "--model", "someone/none", "--out", tmp_path / "x")
    card = Card(license="other", prompts=())
    with pytest.raises(InputError, match="sheep: not a name of the hub; give user/name"):
        pipeline.push_to_hub("sheep", card)
    with pytest.raises(InputError, match="--license Apache License: give an identifier of the hub"):
        Card(license="Apache License")
    export = ("export", "hub", tiny_run, NAME)
    assert "--license Apache License: give" in refusal(*export, "--license=Apache License")
    assert "none.json: no such file" in refusal(*export, "--license=other", "--evaluations", tmp_path / "none.json")
    assert "only this machine has that folder" in refusal(*export, "--license=other")
    hub.refuse = True
    with pytest.raises(InputError, match=r"someone/tiny: cannot be uploaded to http://127.*refused \(401\); log in"):
        pipeline.push_to_hub(NAME, card)
    with pytest.raises(InputError, match=r"cannot be uploaded to http://127.0.0.1:9: .*is the endpoint reachable"):
        pipeline.push_to_hub(NAME, card, endpoint="http://127.0.0.1:9")


def test_a_directory_with_a_card(pipeline, tmp_path):
    pipeline.save_with_card(tmp_path / "saved", Card(license="other", prompts=("two sheep", "a bus")), name="tiny")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.license == "other" and "Not measured" in card.text
    assert {path.name for path in (tmp_path / "saved" / "images").iterdir()} == {"0.png", "1.png"}

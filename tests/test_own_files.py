"""Files that ifuvit wrote and reads back: a changed bit is seen or harmless, and values of any other shape are one line.

Every kind has a writer and a reader. Where a file is guarded by a checksum, the shapes are tried without it: a file of another
version, or one that somebody edited and whose checksum they removed.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from example_results import write_costs, write_evaluation, write_generated, write_guidance_experiment, write_training
from PIL import Image
from tiny_pipeline import write_text_encoder, write_tiny_pipeline, write_vae
from tiny_training import tiny, write_features

from ifuvit import results
from ifuvit.data.coco import read_coco
from ifuvit.data.encoded import EncodedDataset, EncodedDatasetWriter
from ifuvit.data.folder import read_folder
from ifuvit.data.images import load_image
from ifuvit.data.scenes.reading import read_annotations
from ifuvit.data.scenes.writing import write_scenes
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.evaluation.evaluators.distances import _cached
from ifuvit.evaluation.networks import load_counter
from ifuvit.evaluation.targets import open_target
from ifuvit.experiments.plan import _made
from ifuvit.metrics.counting.counter_network import ObjectCounter
from ifuvit.metrics.distances.statistics import FeatureStatistics
from ifuvit.model.uvit import IFUViT
from ifuvit.pipeline import Pipeline, find_normalization
from ifuvit.shipped import DIRECTORY
from ifuvit.training import checkpoint
from ifuvit.training.loop import train
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import CHECKSUMS, OutputDirectory

CPU = torch.device("cpu")


class Kind(NamedTuple):
    file: Path
    read: Callable[[], Any]
    """Reads it, and what belongs to it; what it returns tells what was read."""
    is_data: bool = False
    """Pictures and texts that other programs make too: a changed bit of them may be another picture or text."""


def _weights(module: torch.nn.Module) -> bytes:
    return b"".join(tensor.detach().float().numpy().tobytes() for tensor in module.state_dict().values())


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    root = tmp_path_factory.mktemp("own")
    found: dict[str, Kind] = {}

    # A run.
    write_features(root / "data")
    run = train(tiny(root / "data", root / "run", steps=6, save_every=3, log_every=2))
    config, saved = tiny(root / "data", root / "run", steps=6), checkpoint.path_of(root / "run", 6)

    def newest() -> Any:
        whole, _ = checkpoint.read_newest(run)
        assert whole is not None
        if whole.state["step"] != 6:
            return "its predecessor"
        return repr((whole.state, [sorted(part.items()) for part in (whole.model, whole.ema, whole.optimizer)]))

    found["run record"] = Kind(run / "config.json", lambda: checkpoint.read_normalization(run))
    found["run manifest"] = Kind(run / "manifest.json", lambda: checkpoint.is_finished(config))
    found["run manifest of an experiment"] = Kind(run / "manifest.json", lambda: _made(run, "train", {}))
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", CHECKSUMS):
        found[f"checkpoint {name}"] = Kind(saved / name, newest)
    write_training(root / "logged", 0.2)
    log = root / "logged" / "metrics.jsonl"
    found["training log"] = Kind(log, lambda: results.read_training(log), is_data=True)

    # A pipeline.
    model = write_tiny_pipeline(root / "model") / "pipeline"

    def pipeline() -> Any:
        loaded = Pipeline.from_pretrained(model)
        facts = (loaded.normalization, loaded.objective, loaded.initial_latents, loaded.model.config)
        return facts, open_target(str(model.parent), device=CPU).training, _weights(loaded.model)

    for name in ("model_index.json", "scheduler/scheduler_config.json", CHECKSUMS):
        found[f"pipeline {name}"] = Kind(model / name, pipeline)
    for name in ("config.json", "model.safetensors", CHECKSUMS):
        found[f"backbone {name}"] = Kind(
            model / "transformer" / name, lambda: _weights(IFUViT.from_pretrained(model / "transformer"))
        )
    index = model / "model_index.json"
    found["normalization to start from"] = Kind(index, lambda: find_normalization(model))
    published = run / "pipeline" / "training.json"
    found["training of a pipeline"] = Kind(published, lambda: checkpoint.published_step(run) == 6)

    # Encoders and networks.
    write_text_encoder(root / "text")
    write_vae(root / "vae-of-diffusers")
    vae = root / "vae"
    Autoencoder.from_pretrained(root / "vae-of-diffusers").save_pretrained(vae)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        found[f"autoencoder {name}"] = Kind(vae / name, lambda: Autoencoder.from_pretrained(vae).fingerprint)
    counter = Path(shutil.copytree(DIRECTORY / "counter-openmoji", root / "counter"))
    for name in ("config.json", "model.safetensors"):
        found[f"counter {name}"] = Kind(counter / name, lambda: _weights(ObjectCounter.from_pretrained(counter)))
    found["errors of a counter"] = Kind(counter / "manifest.json", lambda: load_counter(counter).errors, is_data=True)

    # An encoded data set, finished and half finished.
    data = write_features(root / "encoded")

    def encoded() -> Any:
        dataset = EncodedDataset.open(data)
        every, rows = range(len(dataset)), range(dataset.caption_count)
        parts = [dataset.moments(every), *dataset.text(rows), *dataset.tokens(rows)]
        parts += [dataset.null_embeddings, dataset.null_mask, dataset.null_ids, dataset.caption_rows]
        facts = (dataset.latent_scale, dataset.latent_mean, dataset.latent_std, dataset.size, dataset.autoencoder)
        texts = ([dataset.caption_text(row) for row in rows], dataset.image_ids, dataset.text_encoder)
        return facts, texts, [part.tobytes() for part in parts]

    arrays = ("moments/00000", "embeddings/00000", "ids/00000", "masks/00000", "null_embeddings", "caption_starts")
    for name in ("manifest.json", "captions.jsonl", "images.jsonl", *(f"{name}.npy" for name in arrays)):
        found[f"encoded {name}"] = Kind(data / name, encoded)
    writer = EncodedDatasetWriter(root / "half")
    writer.begin({"size": 64, "shards": [3, 4]})
    facts = writer.write_shard("moments", 0, {"moments": np.zeros((2, 3), np.float16)}, rows=2, sum=0.25)
    mark = root / "half" / "progress" / "moments-00000.json"
    found["plan"] = Kind(root / "half" / "plan.json", lambda: writer.check({"size": 64, "shards": [3, 4]}))
    found["mark of a shard"] = Kind(mark, lambda: facts if (done := writer.done("moments", 0)) is None else done)

    # Results, each kind as its file.
    write_evaluation(root / "results" / "evaluation.json", "cross-intermediate", 1.0)
    write_guidance_experiment(root / "results" / "guidance")
    for file in sorted((root / "results").rglob("*.json")):
        if results.is_result(value := json.loads(file.read_text())) and f"result of {value['kind']}" not in found:
            found[f"result of {value['kind']}"] = Kind(file, lambda file=file: results.from_file(file))
    write_generated(root / "generated", "model", 0)
    made = root / "generated" / "manifest.json"
    found["generated images"] = Kind(made, lambda: open_target(str(root / "generated"), device=CPU).images)
    own = OutputDirectory(root / "generated", json.loads(made.read_text())["command"])
    found["record of generated images"] = Kind(made, own.earlier)
    write_costs(root / "costs.json")
    found["costs"] = Kind(root / "costs.json", lambda: results.read_costs(root / "costs.json"), is_data=True)
    statistics = root / "statistics.npz"
    of_features = FeatureStatistics(4)
    of_features.update(np.random.default_rng(0).standard_normal((9, 4)))
    of_features.save(statistics, facts={"size": 64})

    def read_statistics() -> Any:
        read = FeatureStatistics.load(statistics)
        return read.mean.tobytes(), read.covariance.tobytes(), read.count, read.facts

    found["statistics"] = Kind(statistics, read_statistics)
    kept = root / "kept.npz"
    np.savez(kept, features=np.arange(50.0))
    found["cached features"] = Kind(kept, lambda: "made again" if (f := _cached(kept)) is None else f.tobytes())

    # Data sets as others have them too.
    scenes = write_scenes(root / "scenes", size=32, train=2, val=1)
    captions, instances = (scenes / "annotations" / f"{name}_train.json" for name in ("captions", "instances"))
    found["captions"] = Kind(captions, lambda: read_coco(scenes / "images" / "train", captions), is_data=True)
    found["boxes"] = Kind(instances, lambda: read_annotations(scenes, "train"), is_data=True)
    found["scenes record"] = Kind(
        scenes / "scenes.json", lambda: OutputDirectory(scenes, "scenes", record="scenes.json", signed=False).earlier()
    )
    folder = root / "folder"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "captions": ["one", "two"]}\n')
    found["image"] = Kind(folder / "a.png", lambda: load_image(folder / "a.png").tobytes(), is_data=True)
    found["captions of a folder"] = Kind(folder / "metadata.jsonl", lambda: read_folder(folder), is_data=True)
    return found


FEW_OR_MANY = pytest.mark.parametrize("times", [3, pytest.param(30, marks=pytest.mark.slow)])


@FEW_OR_MANY
def test_one_changed_bit_is_seen_or_harmless(kinds: dict[str, Kind], times: int) -> None:
    rng, wrong = random.Random(times), []
    assert len(kinds) >= 40
    for name, kind in kinds.items():
        content, expected = kind.file.read_bytes(), repr(kind.read())
        try:
            for _ in range(times):
                damaged = bytearray(content)
                damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                kind.file.write_bytes(damaged)
                try:
                    silent = repr(kind.read()) not in (expected, "'its predecessor'", "'made again'", "False", "None")
                    if silent and not kind.is_data:
                        wrong.append(f"{name}: another value, silently")
                except InputError as error:
                    if "\n" in str(error):
                        wrong.append(f"{name}: several lines: {error}")
                except Exception as error:
                    wrong.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            kind.file.write_bytes(content)
    assert not wrong, "\n".join(wrong)


STRANGE = (None, True, -1, 0, 1.5, 1e308, 10**30, float("nan"), "", "x", "../x", [], [[]], {}, {"x": 1}, "\ud83d")


def other_shapes(value: Any, rng: random.Random, count: int) -> Iterator[Any]:
    """Copies of JSON values in which one place is missing, or has something else."""
    yield from (None, 7, "x", [], {}, [value], {"x": value})
    for _ in range(count - 7):
        changed = json.loads(json.dumps(value))
        place, key = changed, None
        while isinstance(place, (dict, list)) and place:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.3:
                break
            place = place[key]
        if key is not None:
            if rng.random() < 0.3:
                del place[key]
            else:
                place[key] = rng.choice(STRANGE)
        yield changed


@FEW_OR_MANY
def test_files_of_another_shape_are_one_line(kinds: dict[str, Kind], times: int) -> None:
    rng, wrong = random.Random(times), []
    tried = {name: kind for name, kind in kinds.items() if kind.file.suffix in (".json", ".jsonl")}
    assert len(tried) >= 25
    for name, kind in tried.items():
        content, sums = kind.file.read_bytes(), kind.file.with_name(CHECKSUMS)
        hidden = sums.read_bytes() if sums.is_file() and sums != kind.file else None
        if hidden is not None:
            sums.unlink()
        try:
            lines = content.splitlines() if kind.file.suffix == ".jsonl" else [content]
            value = json.loads(lines[0])
            if isinstance(value, dict):
                value.pop("checksum", None)
            for other in other_shapes(value, rng, times + 10):
                if isinstance(other, str | int | list | dict) or other is None:
                    rest = b"\n".join(lines[1:])
                    kind.file.write_bytes(json.dumps(other).encode() + (b"\n" + rest if lines[1:] else b""))
                try:
                    kind.read()
                except InputError as error:
                    if "\n" in str(error):
                        wrong.append(f"{name}: {json.dumps(other)[:100]}: several lines: {error}")
                except Exception as error:
                    wrong.append(f"{name}: {json.dumps(other)[:100]}: {type(error).__name__}: {error}")
        finally:
            kind.file.write_bytes(content)
            if hidden is not None:
                sums.write_bytes(hidden)
    assert not wrong, "\n".join(wrong[:60]) + f"\n{len(wrong)} in all"

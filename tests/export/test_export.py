"""Graphs in other runtimes: torch's numbers for any batch, and whole images by nothing but graphs and sampler.json."""

import json

import numpy as np
import pytest
import torch

from ifuvit.diffusion.objective import Flow
from ifuvit.diffusion.sampling import initial_latents, sample
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.export.graphs import solver_weights
from ifuvit.pipeline import Pipeline

CASES = [
    *[(None, solver, steps) for solver, steps in (("dpm++", 8), ("dpm++2m", 6), ("unipc", 5), ("ddim", 4))],
    *[(Flow(prediction="clean", shift=2.0), solver, 5) for solver in ("dpm++2m", "heun", "euler")],
]


@pytest.fixture(scope="module")
def pipeline(tiny_run):
    return Pipeline.from_pretrained(tiny_run)


@pytest.mark.parametrize(("objective", "solver", "steps"), CASES)
def test_a_solver_is_its_weights(pipeline, objective, solver, steps):
    if objective is not None:
        parts = (pipeline.model, pipeline.autoencoder, pipeline.text_encoder)
        pipeline = Pipeline(*parts, normalization=pipeline.normalization, objective=objective)
    settings = SamplingSettings(solver=solver, steps=steps, guidance_interval=(0.3, 0.9))
    found = solver_weights(pipeline, settings)
    with torch.no_grad():
        text, null_text = (
            pipeline.model.encode_text(*pipeline.text_encoder(captions)) for captions in (["a bus"], [""])
        )
        noise = initial_latents((4, 4, 4), 0, [0], None)
        history, states = [noise], noise
        for time, guided, row in zip(found["times"], found["guided"], found["weights"], strict=True):
            scale = found["guidance_scale"] if guided else 1.0
            times = torch.tensor([time])
            history.append(pipeline.model.guided(states, times, text, null_text, guidance_scale=scale))
            states = sum(weight * part for weight, part in zip(row, history, strict=True))
        wanted = sample(pipeline.model, noise, text, null_text, settings, objective=pipeline.objective)
    assert len(set(found["guided"])) == 2
    assert torch.allclose(states, wanted, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.slow
def test_onnx(tiny_run, pipeline, ifuvit, tmp_path):
    """Every graph's results, and a whole image by onnxruntime and numpy alone."""
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    from ifuvit.export.onnx import open_session

    ran = ifuvit("export", "onnx", tiny_run, tmp_path / "onnx", "--steps=4")
    assert ran.status == 0 and "largest differences of onnxruntime from torch: text" in ran.out
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    assert set(manifest["differences"]) == {"text", "guided", "decoder"}
    assert max(manifest["differences"].values()) <= 1e-4

    sampler = json.loads((tmp_path / "onnx" / "sampler.json").read_text())
    text, guided, decoder = (open_session(tmp_path / "onnx" / f"{name}.onnx") for name in ("text", "guided", "decoder"))

    def encode(prefix, ids, mask):
        feed = {"input_ids": np.array(ids, np.int64), "attention_mask": np.array(mask, np.int64)}
        asked = {one.name for one in text.get_inputs()}
        values = text.run(None, {name: value for name, value in feed.items() if name in asked})
        return {one.name.replace("text_", prefix): value for one, value in zip(text.get_outputs(), values, strict=True)}

    prompts = ["two sheep", "a red bus", "apples"]
    tokens = pipeline.text_encoder.tokenize(prompts)
    given = encode("text_", tokens.ids, tokens.mask) | encode(
        "null_", [sampler["null_input_ids"]], [sampler["null_attention_mask"]]
    )
    states = initial_latents(sampler["latents"], 0, range(3), None).numpy()
    history = [states]
    for time, row in zip(sampler["times"], sampler["weights"], strict=True):
        scale = np.full(3, sampler["guidance_scale"], np.float32)
        feed = {"latents": states, "timesteps": np.full(3, time, np.float32), "guidance_scale": scale, **given}
        history.append(guided.run(None, feed)[0])
        states = np.tensordot(np.array(row, np.float32), np.stack(history), 1)
    images = decoder.run(None, {"latents": states})[0].transpose(0, 2, 3, 1) * 255
    wanted = np.stack(pipeline(prompts, num_inference_steps=4))
    assert np.abs(images.round() - wanted).max() <= 1


@pytest.mark.slow
def test_torch_export(tiny_run, ifuvit, tmp_path):
    ran = ifuvit("export", "torch", tiny_run, tmp_path / "pt2")
    assert ran.status == 0
    differences = json.loads((tmp_path / "pt2" / "manifest.json").read_text())["differences"]
    assert set(differences) == {"text", "guided", "decoder"} and max(differences.values()) <= 1e-5
    assert (tmp_path / "pt2" / "sampler.json").is_file()


def test_refusals(tiny_run, refusal, tmp_path, monkeypatch):
    assert "--opset 7: must be from 18 to 23" in refusal("export", "onnx", tiny_run, tmp_path / "x", "--opset=7")
    assert "no model '/nowhere'" in refusal("export", "torch", "/nowhere", tmp_path / "x")
    assert "unknown format 'onxx'; did you mean onnx?" in refusal("export", "onxx", tiny_run, tmp_path / "x")
    assert "has no ort.wasm.bundle.min.mjs; get it with `npm install onnxruntime-web`" in refusal(
        "export", "page", tiny_run, tmp_path / "x"
    )
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).write_bytes(b"")
    line = refusal("export", "page", tiny_run, tmp_path / "x", "--runtime", tmp_path)
    assert "its tokenizer is a WordLevel one, and the page has WordPiece alone" in line
    monkeypatch.setattr("ifuvit.export.onnx.find_spec", lambda name: None if name == "onnxscript" else 1)
    line = refusal("export", "onnx", tiny_run, tmp_path / "x")
    assert "ONNX requires onnxscript; install with `pip install 'ifuvit[onnx]'`" in line
    assert not (tmp_path / "x").exists()


def test_smaller_weights(tmp_path):
    """Half precision, or 8 bits with a scale for each column or row, and the graph computes nearly the same."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from ifuvit.export.onnx import open_session
    from ifuvit.export.page import _shrink

    rng = np.random.default_rng(0)
    # Columns and rows of very different size: one scale for all would lose the small ones.
    table = (rng.standard_normal((50, 40)) * np.logspace(-3, 3, 50)[:, None]).astype(np.float32)
    matrix = (rng.standard_normal((40, 60)) * np.logspace(-3, 3, 60)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [3, 60])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(matrix, "matrix")],
    )
    ids = np.array([1, 25, 49])
    wanted = table[ids].astype(np.float64) @ matrix
    for eight_bit, share, tolerance in ((True, 0.35, 0.03), (False, 0.55, 2e-3)):
        path = tmp_path / "graph.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, path)
        before = path.stat().st_size
        _shrink(path, eight_bit=eight_bit)
        assert path.stat().st_size < share * before
        found = open_session(path).run(None, {"ids": ids})[0]
        scale = np.linalg.norm(table[ids], axis=1)[:, None] * np.linalg.norm(matrix, axis=0)
        assert (np.abs(found - wanted) / scale).max() < tolerance

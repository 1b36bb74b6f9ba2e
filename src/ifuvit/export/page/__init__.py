"""A static page that generates images in the browser, without a server: the graphs in ONNX, onnxruntime-web, and a page.

The files are those of `ifuvit export onnx` with smaller weights (half precision, the language model's 8 bits) and packed with gzip,
which browsers unpack. onnxruntime-web comes from npm and is copied, not kept here.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from ifuvit.diffusion.schedule import alphas_cumprod
from ifuvit.export.config import ExportPageConfig
from ifuvit.export.graphs import make_graphs, sampler
from ifuvit.export.onnx import check_installed, difference, write_onnx
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, now, write_json, write_manifest

MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_EIGHT_BIT = ("text",)
_SMALL = 1_000
"""Numbers of a tensor that is left as it is."""


def export_page(config: ExportPageConfig) -> str:
    """Write index.html, app.js, the runtime, the packed graphs and what the page needs to know. Returns what was found, a line.

    Raises:
        InputError: packages or the runtime's files are missing, no such model, or one whose tokens the page cannot make.
    """
    check_installed()
    for name in (MODULE, WASM):
        if not (config.runtime / name).is_file():
            raise InputError(
                f"--runtime {config.runtime}: has no {name}; get it with `npm install onnxruntime-web` and give "
                "node_modules/onnxruntime-web/dist"
            )
    started, out = now(), OutputDirectory(config.out, "export page")
    out.earlier()
    pipeline = Pipeline.from_pretrained(config.model)
    vocabulary = _vocabulary(pipeline)
    with out.replace() as directory:
        differences = {}
        for graph in make_graphs(pipeline):
            path = directory / f"{graph.name}.onnx"
            write_onnx(graph, path, opset=18)
            _shrink(path, eight_bit=graph.name in _EIGHT_BIT)
            differences[graph.name] = difference(graph, path)
            _pack(path)
        (directory / WASM).write_bytes((config.runtime / WASM).read_bytes())
        _pack(directory / WASM)
        (directory / MODULE).write_bytes((config.runtime / MODULE).read_bytes())
        for name in ("index.html", "app.js"):
            (directory / name).write_text((Path(__file__).parent / name).read_text(encoding="utf-8"), encoding="utf-8")
        facts = {**sampler(pipeline, config.steps), "start": _start(pipeline), "vocabulary": vocabulary}
        write_json(directory / "model.json", {**facts, "name": Path(config.model).name})
        size = sum(file.stat().st_size for file in directory.iterdir())
        write_manifest(directory, "export page", to_dict(config), started=started, differences=differences, bytes=size)
    shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return (
        f"{size / 1e6:.1f} MB; serve it as it is (`python -m http.server -d {config.out}`); largest differences from torch by "
        f"the smaller weights: {shown}"
    )


def _vocabulary(pipeline: Pipeline) -> list[str]:
    """The pieces of the tokenizer, by id."""
    tokenizer: Any = pipeline.text_encoder.tokenizer
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    if kind != "WordPiece":
        raise InputError(
            f"text encoder {pipeline.text_encoder.reference}: its tokenizer is a {kind} one, and the page has WordPiece alone; "
            "export onnx takes any"
        )
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, _ in pieces]


def _start(pipeline: Pipeline) -> dict[str, Any] | None:
    """How the state at n = 1000 is made of normal numbers: signal (mean + root z) + deviation noise."""
    if pipeline.initial_latents is None:
        return None
    values, vectors = np.linalg.eigh(np.array(pipeline.initial_latents.covariance))
    last = float(alphas_cumprod()[-1])
    return {
        "mean": list(pipeline.initial_latents.mean),
        "root": (vectors * np.sqrt(values.clip(min=0))).tolist(),
        "signal": last**0.5,
        "deviation": (1 - last) ** 0.5,
    }


def _shrink(path: Path, *, eight_bit: bool) -> None:
    """Store the weights of a graph in half precision, or its matrices in 8 bits with a scale for each column (each row of an
    embedding); the graph computes with fp32 as before."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, before = model.graph, []
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    kept = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < _SMALL:
            kept.append(tensor)
        elif eight_bit and array.ndim == 2:
            axis = 0 if tensor.name in gathered else 1
            scale = (np.abs(array).max(1 - axis, keepdims=True) / 127).clip(1e-12).astype(np.float32)
            kept.append(numpy_helper.from_array(np.round(array / scale).astype(np.int8), f"{tensor.name}_8"))
            kept.append(numpy_helper.from_array(scale.reshape(-1), f"{tensor.name}_scale"))
            names = [f"{tensor.name}_8", f"{tensor.name}_scale"]
            before.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        else:
            kept.append(numpy_helper.from_array(array.astype(np.float16), f"{tensor.name}_16"))
            before.append(helper.make_node("Cast", [f"{tensor.name}_16"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*before, *graph.node]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.save(model, path)


def _pack(path: Path) -> None:
    """Replace a file by itself packed."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()

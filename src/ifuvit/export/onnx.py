"""Graphs in ONNX, compared with torch where onnxruntime computes them."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifuvit.export.config import ExportOnnxConfig
from ifuvit.export.graphs import Graph, make_graphs, sampler
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, now, write_json, write_manifest

TOLERANCE = 1e-4
"""Largest difference from torch, of results of the order of 1."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Raise an InputError unless the packages of the extra are here."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(f"ONNX requires {', '.join(missing)}; install with `pip install 'ifuvit[onnx]'`")


def export_onnx(config: ExportOnnxConfig) -> str:
    """Write text.onnx, guided.onnx, decoder.onnx, sampler.json and the manifest. Returns what was found, a line.

    Raises:
        InputError: packages that are missing, no such model, a directory of something else, or results that differ.
    """
    check_installed()
    started, out = now(), OutputDirectory(config.out, "export onnx")
    out.earlier()
    pipeline = Pipeline.from_pretrained(config.model)
    with out.replace() as directory:
        differences = {}
        for graph in make_graphs(pipeline):
            write_onnx(graph, directory / f"{graph.name}.onnx", opset=config.opset)
            differences[graph.name] = difference(graph, directory / f"{graph.name}.onnx")
        if worst := [name for name, value in differences.items() if not value <= TOLERANCE]:
            raise InputError(
                f"{config.model}: {worst[0]}.onnx differs from torch by {differences[worst[0]]:.2g}, more than {TOLERANCE:g}; "
                "nothing was written; try another --opset"
            )
        write_json(directory / "sampler.json", sampler(pipeline, config.steps))
        write_manifest(directory, "export onnx", to_dict(config), started=started, differences=differences)
    shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return f"opset {config.opset}; largest differences of onnxruntime from torch: {shown}"


def write_onnx(graph: Graph, path: Path, *, opset: int) -> None:
    """Export a graph, its batch free, its weights inside the file."""
    with warnings.catch_warnings(), torch.no_grad(), _quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=graph.dynamic_shapes(),
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks that torchvision is not here, and its optimizer's on what it cannot fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """A session of onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed(inputs: Mapping[str, torch.Tensor], session: Any) -> dict[str, np.ndarray]:
    """Inputs as a session takes them; an exporter leaves out those that do not matter."""
    asked = {one.name for one in session.get_inputs()}
    return {name: value.numpy() for name, value in inputs.items() if name in asked}


def difference(graph: Graph, path: Path) -> float:
    """Largest difference of onnxruntime's results from torch's."""
    session = open_session(path)
    return graph.difference(
        lambda inputs: [torch.from_numpy(part) for part in session.run(None, feed(inputs, session))]
    )

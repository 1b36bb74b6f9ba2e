"""The graphs of a model in onnxruntime, next to torch on the same inputs in the same rounds."""

import tempfile
from pathlib import Path

import torch

from ifuvit.benchmarks.comparison import compare
from ifuvit.benchmarks.config import BenchOnnxConfig
from ifuvit.benchmarks.timing import BenchmarkCase, Step
from ifuvit.export.graphs import Graph, make_graphs
from ifuvit.export.onnx import check_installed, feed, open_session, write_onnx
from ifuvit.pipeline import Pipeline
from ifuvit.results import Comparison
from ifuvit.utils.errors import InputError


def bench_onnx(config: BenchOnnxConfig, device: torch.device) -> dict[str, Comparison]:
    """Time text path, guided step and decoder, one comparison each.

    Raises:
        InputError: packages of the extra are missing, or another device than the CPU.
    """
    check_installed()
    if device.type != "cpu":
        raise InputError(f"--device {device.type}: onnxruntime is timed on the CPU; give --device cpu")
    with tempfile.TemporaryDirectory() as directory:
        comparisons = {}
        for graph in make_graphs(Pipeline.from_pretrained(config.model)):
            path = Path(directory) / f"{graph.name}.onnx"
            write_onnx(graph, path, opset=18)
            comparisons[graph.name] = compare(_cases(graph, path, config.batch_size), config, device)
        return comparisons


def _cases(graph: Graph, path: Path, batch: int) -> list[BenchmarkCase]:
    inputs = graph.of_batch(batch)

    def of_torch() -> Step:
        @torch.no_grad()
        def step() -> object:
            return graph.module(*inputs.values())

        return step

    def of_onnxruntime() -> Step:
        session = open_session(path, threads=torch.get_num_threads())
        arrays = feed(inputs, session)
        return lambda: session.run(None, arrays)

    return [
        BenchmarkCase(name="torch", prepare=of_torch, items=batch),
        BenchmarkCase(name="onnxruntime", prepare=of_onnxruntime, items=batch, base="torch"),
    ]

"""Graphs by torch.export, compared with the model."""

from pathlib import Path

import torch

from ifuvit.export.config import ExportTorchConfig
from ifuvit.export.graphs import Graph, make_graphs, sampler
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import OutputDirectory, now, write_json, write_manifest


def export_torch(config: ExportTorchConfig) -> str:
    """Write text.pt2, guided.pt2, decoder.pt2, sampler.json and the manifest. Returns what was found, a line.

    Raises:
        InputError: no such model, or a directory of something else.
    """
    started, out = now(), OutputDirectory(config.out, "export torch")
    out.earlier()
    pipeline = Pipeline.from_pretrained(config.model)
    with out.replace() as directory:
        differences = {}
        for graph in make_graphs(pipeline):
            write_program(graph, directory / f"{graph.name}.pt2")
            module = torch.export.load(directory / f"{graph.name}.pt2").module()
            differences[graph.name] = graph.difference(
                lambda inputs, module=module: _as_tuple(module(*inputs.values()))
            )
        write_json(directory / "sampler.json", sampler(pipeline, config.steps))
        write_manifest(directory, "export torch", to_dict(config), started=started, differences=differences)
    shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return f"largest differences of the loaded graphs from the model: {shown}"


def write_program(graph: Graph, path: Path) -> None:
    """Export a graph, its batch free."""
    with torch.no_grad():
        program = torch.export.export(
            graph.module, tuple(graph.inputs.values()), dynamic_shapes=graph.dynamic_shapes(), strict=False
        )
    torch.export.save(program, path)


def _as_tuple(result: object) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)  # type: ignore[return-value]

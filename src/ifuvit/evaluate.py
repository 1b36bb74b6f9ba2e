"""`ifuvit evaluate`: say how good a model or a directory of pictures is, under a named protocol."""

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ifuvit.artifacts import manifest, now, read_json, write_json
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.errors import InputError
from ifuvit.evaluation.protocols import Protocol, protocols

if TYPE_CHECKING:
    from ifuvit.evaluation.processes import Processes
    from ifuvit.evaluation.targets import Target

Metric = Literal["distances", "alignment", "counts", "costs"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge a model or pictures: Fréchet and kernel distances from real pictures, text-image alignment, object counts
    and costs, each with how sure it is.

    A model draws the protocol's captions first; the pictures are kept beside the result, and those that are there
    already are not drawn again. docs/evaluation.md tells what every protocol fixes."""

    target: Positional[Annotated[str, arg(metavar="TARGET")]]
    """A shipped model, a run, a pipeline directory, a directory of pictures with captions, or a diffusers pipeline (its
    directory or its name on the hub)."""
    data: Path
    """The real pictures and their captions: a directory of `ifuvit scenes`, MS-COCO unpacked, or a captioned folder."""
    out: Path
    """The result, a JSON file."""
    protocol: Literal["quick", "paper", "clean"] = "quick"
    """quick: 1,000 pictures and the embedded networks. paper: FID-30K and CLIP score as U-ViT has them. clean: as paper,
    with clean-fid's resize."""
    metrics: tuple[Metric, ...] = ("distances", "alignment", "counts", "costs")
    """What to measure."""
    images: Annotated[int | None, arg(metavar="INT")] = None
    """Instead of the protocol's number of pictures. The result's protocol then says that it was changed; so for the next
    options."""
    guidance_scale: Annotated[float | None, arg(metavar="FLOAT")] = None
    """The standard w (the paper's s = w - 1), instead of the protocol's."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps, instead of the protocol's."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Of the noise, instead of the protocol's."""
    count_images: Annotated[int | None, arg(metavar="INT")] = None
    """Pictures a counting prompt, instead of the protocol's."""
    captions: Annotated[Path | None, arg(metavar="FILE")] = None
    """One caption a line for a directory of bare pictures, in the order of their names."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """The real side's statistics, of `ifuvit reference-stats` or pytorch-fid, instead of computing features anew."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded, as `inception=FILE.pth` or `clip=FOLDER`."""
    counter: str = "openmoji"
    """The counter of drawn objects: the shipped one, or a directory of `ifuvit count train`."""
    pictures: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the pictures are kept. Default: beside the result, RESULT-pictures."""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """Keep the real side's features here for the next evaluation."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Pictures drawn at once. Default: 16 on a CPU, else 64. It does not change them."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise InputError("--metrics: give at least one of distances, alignment, counts, costs")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")
        for item in self.weights:
            if "=" not in item:
                raise InputError(f"--weights {item}: give NAME=PATH, as inception=pt_inception-2015-12-05-6726825d.pth")
        self.resolved_protocol()  # refuses impossible values

    def resolved_protocol(self) -> Protocol:
        """The protocol with this configuration's changes, which its name then tells."""
        base = protocols[self.protocol]
        changes = {
            field.name: value
            for field in fields(Protocol)
            if field.name not in ("name", "captions")
            and (value := getattr(self, field.name, None)) is not None
            and value != getattr(base, field.name)
        }
        told = ", ".join(f"{name}={value}" for name, value in changes.items())
        return replace(base, name=f"{base.name}, changed: {told}", **changes) if changes else base


def run(config: EvaluateConfig) -> Path:
    """Judge the target and write the result. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        `config.out`.

    Raises:
        InputError: a target, data or weights that cannot be used, or too few pictures for the protocol.
    """
    from ifuvit.devices import find_device
    from ifuvit.evaluation.processes import Processes
    from ifuvit.evaluation.real import RealPictures
    from ifuvit.evaluation.scoring import Judges
    from ifuvit.evaluation.targets import open_target

    started, protocol = now(), config.resolved_protocol()
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give a file such as {config.out / 'result.json'}")
    kept = config.pictures or config.out.with_name(f"{config.out.stem}-pictures")
    real = RealPictures.open(config.data, split=protocol.split)
    processes, device = Processes.join()
    if config.device != "auto":
        device = find_device(config.device)
    batch_size = config.batch_size or (16 if device.type == "cpu" else 64)

    # What is judged, and by whom. Weights that are missing show before anything is drawn.
    target = open_target(config.target, device=device, captions=config.captions)
    judged: list[tuple[Path, str]] = []
    if target.pictures is not None:
        judged = _given_pictures(config, target, protocol)
    judges = Judges.load(
        protocol,
        real,
        metrics=config.metrics,
        device=device,
        weights=dict(item.split("=", 1) for item in config.weights),
        statistics=config.statistics,
        cache=config.cache,
        processes=processes,
    )
    counter = None
    if "counts" in config.metrics and protocol.count_prompts is not None:
        from ifuvit.metrics.object_count import load_counter

        counter = load_counter(config.counter, device=device)

    # The pictures of captions, and what the judges say of them.
    images_per_second, shown = None, None
    if target.painter is not None and {"distances", "alignment"} & set(config.metrics):
        prompts = [caption for _, caption in real.choose(protocol.images, protocol.caption_seed)]
        shown = kept / "captions"
        files, images_per_second = _draw(
            protocol, target, prompts, shown, protocol.guidance_scale, batch_size, processes
        )
        judged = list(zip(files, prompts))
    files, prompts = [file for file, _ in judged], [prompt for _, prompt in judged]
    metrics: dict[str, Any] = {}
    if "distances" in config.metrics:
        metrics |= judges.distances(files)
    if "alignment" in config.metrics:
        metrics |= judges.alignment(files, prompts)

    # The pictures of counting prompts.
    counted: dict[str, Any] = {}
    if counter is not None:
        from ifuvit.metrics.object_count import PROMPT_SETS, count_pictures

        if target.painter is not None:
            assert protocol.count_prompts is not None
            prompts = [one for one in PROMPT_SETS[protocol.count_prompts] for _ in range(protocol.count_images)]
            scale = protocol.count_guidance_scale
            files, speed = _draw(protocol, target, prompts, kept / "counts", scale, batch_size, processes)
            images_per_second = images_per_second or speed
        counted = count_pictures(files, prompts, counter)

    if processes.first:
        result = manifest(
            "evaluate",
            to_dict(config),
            started=started,
            target=target.describe(),
            protocol=to_dict(protocol),
            data={
                "where": str(config.data),
                "split": real.split,
                "pictures": len(real),
                "left_out": real.left_out,
                "sha256": real.fingerprint,
            },
            metrics=metrics,
            **{key: counted.get(key) for key in ("counts", "relations", "counter")},
            costs=_costs(target, images_per_second) if "costs" in config.metrics else None,
            pictures=None if shown is None else os.path.relpath(shown, config.out.parent),
            processes=processes.count,
            device=str(device),
        )
        write_json(config.out, result)
    processes.wait()
    return config.out


def _given_pictures(config: EvaluateConfig, target: "Target", protocol: Protocol) -> list[tuple[Path, str]]:
    """The first `protocol.images` of a directory of pictures, with their captions where they are needed."""
    assert target.pictures is not None
    if len(target.pictures) < protocol.images:
        raise InputError(
            f"{config.target}: {len(target.pictures):,} pictures, fewer than the {protocol.images:,} of the protocol; give "
            f"--images {len(target.pictures)} (another protocol then, and named so), or more pictures"
        )
    chosen = target.pictures[: protocol.images]
    bare = next((file for file, caption in chosen if caption is None), None)
    if bare is not None and "alignment" in config.metrics:
        raise InputError(f"{bare}: has no caption, which alignment needs; give --captions FILE or --metrics distances")
    return [(file, caption or "") for file, caption in chosen]


def _draw(
    protocol: Protocol,
    target: "Target",
    prompts: Sequence[str],
    directory: Path,
    guidance_scale: float,
    batch_size: int,
    processes: "Processes",
) -> tuple[list[Path], float | None]:
    from ifuvit.evaluation.drawing import draw
    from ifuvit.evaluation.targets import Settings

    return draw(
        target,
        prompts,
        directory,
        Settings(solver=protocol.solver, steps=protocol.steps, guidance_scale=guidance_scale, seed=protocol.seed),
        batch_size=batch_size,
        processes=processes,
        label=directory.name,
    )


def _costs(target: "Target", images_per_second: float | None) -> dict[str, Any]:
    """What the target takes: from its configuration alone, from its run's log, and measured here."""
    import torch

    from ifuvit.config import from_dict
    from ifuvit.metrics.cost import cost_of
    from ifuvit.model.uvit import IFUViTConfig

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    analytic = cost_of(from_dict(IFUViTConfig, target.setting)) if target.setting is not None else {}
    return {
        **analytic,
        "training_steps_per_second": (target.training or {}).get("steps_per_second"),
        "images_per_second": None if images_per_second is None else round(images_per_second, 3),
        "peak_memory_gib": round(memory / 2**30, 3),
    }


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a result as text."""
    protocol, target = result["protocol"], result["target"]
    lines = [
        f"{target['name']} under protocol {protocol['name']}: {protocol['images']:,} pictures, {protocol['solver']}, "
        f"{protocol['steps']} steps, w = {protocol['guidance_scale']:g}"
    ]
    for name, number in result["metrics"].items():
        line = f"  {name:<24} {number['value']:>10.4g}"
        if number.get("interval"):
            line += " [{:.4g}, {:.4g}]".format(*number["interval"])
        if number.get("floor"):
            line += f"   real against real {number['floor']['value']:.4g}"
        if number.get("real") is not None:
            line += f"   real pairs {number['real']:.4g}"
        lines.append(line)
    if result["counts"]:
        overall = result["counts"]["overall"]
        for name, scale in (("right", 100), ("match_ratio", 100), ("average_error", 1)):
            low, high = (scale * bound for bound in overall[name]["interval"])
            unit = ", %" if scale == 100 else ""
            title = {"right": "right kind and count", "match_ratio": "match ratio", "average_error": "average error"}[
                name
            ]
            lines.append(f"  {title + unit:<24} {scale * overall[name]['value']:>10.4g} [{low:.4g}, {high:.4g}]")
    if result["costs"]:
        told = {
            "parameters": "parameters",
            "images_per_second": "pictures a second",
            "peak_memory_gib": "peak memory, GiB",
        }
        for name, title in told.items():
            if result["costs"].get(name) is not None:
                lines.append(f"  {title:<24} {result['costs'][name]:>10,}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Entry point of the verb."""
    config = parse(EvaluateConfig, arguments, prog="ifuvit evaluate")
    out = run(config)
    from ifuvit.evaluation.processes import Processes

    if Processes.join()[0].first:
        print(result_table(read_json(out)))
        print(f"{out}: written")

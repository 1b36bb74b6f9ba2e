"""`ifuvit evaluate`: say how good a model or a directory of pictures is, under a named protocol."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ifuvit.utils.files import manifest, now, read_json, write_json
from ifuvit.commands.main import parse
from ifuvit.utils.config import to_dict
from ifuvit.diffusion import Solver, Start
from ifuvit.utils.errors import InputError
from ifuvit.evaluation.protocols import Protocol, protocols, read_weights
from ifuvit.metrics.counting.prompts import PROMPT_SETS, PromptSet

if TYPE_CHECKING:
    import torch

    from ifuvit.evaluation.targets import Target
    from ifuvit.metrics.distances.frechet import FeatureStatistics
    from ifuvit.metrics.counting.counters import PictureCounter
    from ifuvit.utils.distributed import Processes

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
    guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH")] = None
    """The part of the noise range that is guided, in n / 1000, instead of the protocol's (all of it)."""
    solver: Annotated[Solver | None, arg(metavar="NAME")] = None
    """dpm++, dpm++2m, unipc, ddim or euler-a, instead of the protocol's."""
    start: Annotated[Start | None, arg(metavar="NAME")] = None
    """color or noise, instead of the protocol's."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps, instead of the protocol's."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Of the noise, instead of the protocol's."""
    count_prompts: Annotated[tuple[str, ...], arg(metavar="SET=INT")] = ()
    """Sets of counting prompts with the pictures a prompt, instead of the protocol's, as `paper=10 all-kinds=2`; `ifuvit
    count prompts SET` prints a set."""
    captions: Annotated[Path | None, arg(metavar="FILE")] = None
    """One caption a line for a directory of bare pictures, in the order of their names."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """The real side's statistics, of `ifuvit reference-stats` or pytorch-fid, instead of computing features anew."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded, as `inception=FILE.pth` or `clip=FOLDER`."""
    counter: str = "openmoji"
    """The counter of drawn objects: the shipped one, or a directory of `ifuvit count train`."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """Count objects by this zero-shot detector of transformers, as google/owlv2-base-patch16-ensemble; for photographs."""
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
        read_weights(self.weights)
        self.resolved_protocol()  # refuses impossible values

    def resolved_protocol(self) -> Protocol:
        """The protocol with this configuration's changes, which its name then tells."""
        base = protocols[self.protocol]
        changeable = ("images", "guidance_scale", "guidance_interval", "solver", "start", "steps", "seed")
        given = {name: getattr(self, name) for name in changeable}
        changes = {name: value for name, value in given.items() if value not in (None, getattr(base, name))}
        told = [f"{name}={value}" for name, value in changes.items()]
        if self.count_prompts:
            changes["count_prompts"] = tuple(_prompt_set(item) for item in self.count_prompts)
            told += self.count_prompts
        return replace(base, name=f"{base.name}, changed: {', '.join(told)}", **changes) if changes else base


def _prompt_set(item: str) -> tuple[PromptSet, int]:
    name, _, images = item.partition("=")
    if name not in PROMPT_SETS or not images.isdigit() or int(images) < 1:
        raise InputError(f"--count-prompts {item}: give SET=INT with a set of {', '.join(PROMPT_SETS)}")
    return name, int(images)  # type: ignore[return-value]


def run(config: EvaluateConfig) -> Path:
    """Judge the target and write the result. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        `config.out`.

    Raises:
        InputError: a target, data or weights that cannot be used, or too few pictures for the protocol.
    """
    from ifuvit.utils.devices import find_device
    from ifuvit.evaluation.reference_images import RealPictures
    from ifuvit.evaluation.evaluators import Judges
    from ifuvit.evaluation.targets import open_target
    from ifuvit.utils.distributed import Processes

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
        weights=read_weights(config.weights),
        statistics=_statistics(config, protocol),
        cache=config.cache,
        processes=processes,
    )
    counter = _counter(config, protocol, device) if "counts" in config.metrics else None

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

    # The pictures of counting prompts; of given pictures, those whose captions can be counted by.
    counted: dict[str, Any] = {}
    if counter is not None:
        from ifuvit.metrics.counting.counters import count_pictures

        if target.painter is None:
            counted["paper"] = count_pictures(files, prompts, counter, processes=processes)
        else:
            for name, number in protocol.count_prompts:
                prompts = [prompt for prompt in PROMPT_SETS[name] for _ in range(number)]
                scale = protocol.count_guidance_scale
                files, speed = _draw(protocol, target, prompts, kept / name, scale, batch_size, processes)
                images_per_second = images_per_second or speed
                counted[name] = count_pictures(files, prompts, counter, processes=processes)

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
            counts=counted.get("paper", {}).get("counts"),
            all_kinds=counted.get("all-kinds", {}).get("counts"),
            relations=counted.get("relations", {}).get("relations"),
            held_out={key: counted["held-out"][key] for key in ("counts", "relations")}
            if "held-out" in counted
            else None,
            counter=None if counter is None else counter.facts(),
            costs=_costs(target, images_per_second, device) if "costs" in config.metrics else None,
            pictures=None if shown is None else os.path.relpath(shown, config.out.parent),
            processes=processes.count,
            device=str(device),
        )
        write_json(config.out, result)
    processes.wait()
    return config.out


def _statistics(config: EvaluateConfig, protocol: Protocol) -> "FeatureStatistics | None":
    from ifuvit.metrics.distances.frechet import FeatureStatistics

    if config.statistics is None:
        return None
    statistics = FeatureStatistics.load(config.statistics)
    if (size := statistics.facts.get("size", protocol.size)) != protocol.size:
        raise InputError(
            f"--statistics {config.statistics}: of pictures of size {size}, but the protocol has {protocol.size}; make them "
            f"with `ifuvit reference-stats --size {protocol.size}`"
        )
    return statistics


def _counter(config: EvaluateConfig, protocol: Protocol, device: "torch.device") -> "PictureCounter | None":
    from ifuvit.metrics.counting.counters import load_counter
    from ifuvit.metrics.counting.zero_shot import load_detector

    if config.detector is not None:
        return load_detector(config.detector, device=device)
    if protocol.counts_scenes:
        return load_counter(config.counter, device=device)
    print("ifuvit: objects are not counted; on photographs that takes --detector", file=sys.stderr)
    return None


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
    from ifuvit.evaluation.generation import draw
    from ifuvit.evaluation.targets import Settings

    return draw(
        target,
        prompts,
        directory,
        Settings(
            solver=protocol.solver,
            steps=protocol.steps,
            guidance_scale=guidance_scale,
            guidance_interval=protocol.guidance_interval,
            start=protocol.start,
            seed=protocol.seed,
        ),
        batch_size=batch_size,
        processes=processes,
        label=directory.name,
    )


def _costs(target: "Target", images_per_second: float | None, device: "torch.device") -> dict[str, Any]:
    """What the target takes: from its configuration alone, from its training's record, and measured here."""
    from ifuvit.utils.config import from_dict
    from ifuvit.utils.devices import peak_memory
    from ifuvit.model.flops import cost_of
    from ifuvit.model.settings import IFUViTConfig

    analytic = cost_of(from_dict(IFUViTConfig, target.setting)) if target.setting is not None else {}
    training = target.training or {}
    return {
        **analytic,
        "training_steps_per_second": round(training["steps"] / training["seconds"], 3)
        if training.get("seconds")
        else None,
        "images_per_second": None if images_per_second is None else round(images_per_second, 3),
        "peak_memory_gib": round(peak_memory(device) / 2**30, 3),
    }


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a result as text."""
    protocol, target = result["protocol"], result["target"]
    lines = [
        f"{target['name']} under protocol {protocol['name']}: {protocol['images']:,} pictures, {protocol['solver']}, "
        f"{protocol['steps']} steps, w = {protocol['guidance_scale']:g}"
    ]
    for name, number in result["metrics"].items():
        line = f"  {name:<36} {number['value']:>8.4g}"
        if number.get("interval"):
            line += " [{:.4g}, {:.4g}]".format(*number["interval"])
        if beside := number.get("floor") or number.get("real"):
            line += f"   ({beside['how']}: {beside['value']:.4g})"
        lines.append(line)
    held_out = result["held_out"] or {}
    for title, scores, names in (
        ("the paper's prompts", result["counts"], ("right", "match_ratio", "average_error")),
        ("all kinds", result["all_kinds"], ("right", "match_ratio", "average_error")),
        ("relations", result["relations"], ("both_kinds", "right")),
        ("held-out counts", held_out.get("counts"), ("right", "average_error")),
        ("held-out relations", held_out.get("relations"), ("both_kinds", "right")),
    ):
        for name in names:
            if scores is None or name not in scores["overall"]:
                continue  # not asked for, or not of this kind of counter
            number = scores["overall"][name]
            low, high = number["interval"]
            line = f"{title}: {name.replace('_', ' ')}"
            lines.append(f"  {line:<36} {number['value']:>8.3f} [{low:.3f}, {high:.3f}]")
    if result["costs"]:
        told = {
            "parameters": "parameters",
            "images_per_second": "pictures a second",
            "peak_memory_gib": "peak memory, GiB",
        }
        for name, title in told.items():
            if result["costs"].get(name) is not None:
                lines.append(f"  {title:<36} {result['costs'][name]:>8,}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Entry point of the verb."""
    config = parse(EvaluateConfig, arguments, prog="ifuvit evaluate")
    out = run(config)
    from ifuvit.utils.distributed import Processes

    if Processes.join()[0].first:
        print(result_table(read_json(out)))
        print(f"{out}: written")

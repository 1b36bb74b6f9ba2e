"""`ifuvit evaluate`: say how good a model or a directory of images is, under a named protocol."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.evaluation.protocols import Protocol
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest, now, write_json

if TYPE_CHECKING:
    import torch

    from ifuvit.evaluation.targets import Target
    from ifuvit.metrics.counting.counters import ImageCounter
    from ifuvit.metrics.distances.frechet import FeatureStatistics


def run(config: EvaluateConfig) -> Path:
    """Judge the target and write the result. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        `config.out`.

    Raises:
        InputError: a target, data or weights that cannot be used, or too few images for the protocol.
    """
    from ifuvit.evaluation.evaluators import Evaluators
    from ifuvit.evaluation.generation import draw
    from ifuvit.evaluation.reference_images import ReferenceImages
    from ifuvit.evaluation.targets import open_target
    from ifuvit.utils.devices import find_device
    from ifuvit.utils.distributed import Processes

    started, protocol = now(), config.resolved_protocol()
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give a file such as {config.out / 'result.json'}")
    kept = config.images_dir or config.out.with_name(f"{config.out.stem}-images")
    real = ReferenceImages.open(config.data, split=protocol.split)
    processes, device = Processes.init()
    if config.device != "auto":
        device = find_device(config.device)
    batch_size = config.batch_size or (16 if device.type == "cpu" else 64)

    # What is judged, and by whom. Weights that are missing show before anything is drawn.
    target = open_target(config.target, device=device, captions=config.captions)
    judged: list[tuple[Path, str]] = []
    if target.images is not None:
        judged = _given_images(config, target, protocol)
    evaluators = Evaluators.load(
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

    # The images of captions, and what the evaluators say of them.
    images_per_second, shown = None, None
    if target.generator is not None and {"distances", "alignment"} & set(config.metrics):
        prompts = [caption for _, caption in real.choose(protocol.num_images, protocol.caption_seed)]
        shown = kept / "captions"
        files, images_per_second = draw(
            target, prompts, shown, protocol.sampling, seed=protocol.seed, batch_size=batch_size, processes=processes
        )
        judged = list(zip(files, prompts))
    files, prompts = [file for file, _ in judged], [prompt for _, prompt in judged]
    metrics: dict[str, Any] = {}
    if "distances" in config.metrics:
        metrics |= evaluators.distances(files)
    if "alignment" in config.metrics:
        metrics |= evaluators.alignment(files, prompts)

    # The images of counting prompts; of given images, those whose captions can be counted by.
    counted: dict[str, Any] = {}
    if counter is not None:
        from ifuvit.metrics.counting.counters import count_images

        if target.generator is None:
            counted["paper"] = count_images(files, prompts, counter, processes=processes)
        else:
            for name, number in protocol.count_prompts:
                prompts = [prompt for prompt in PROMPT_SETS[name] for _ in range(number)]
                files, speed = draw(
                    target,
                    prompts,
                    kept / name,
                    protocol.count_sampling,
                    seed=protocol.seed,
                    batch_size=batch_size,
                    processes=processes,
                )
                images_per_second = images_per_second or speed
                counted[name] = count_images(files, prompts, counter, processes=processes)

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
                "images": len(real),
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
            images=None if shown is None else os.path.relpath(shown, config.out.parent),
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
            f"--statistics {config.statistics}: of images of size {size}, but the protocol has {protocol.size}; make them "
            f"with `ifuvit reference-stats --size {protocol.size}`"
        )
    return statistics


def _counter(config: EvaluateConfig, protocol: Protocol, device: "torch.device") -> "ImageCounter | None":
    from ifuvit.metrics.counting.counters import load_counter
    from ifuvit.metrics.counting.zero_shot import load_detector

    if config.detector is not None:
        return load_detector(config.detector, device=device)
    if protocol.counts_scenes:
        return load_counter(config.counter, device=device)
    print("ifuvit: objects are not counted; on photographs that takes --detector", file=sys.stderr)
    return None


def _given_images(config: EvaluateConfig, target: "Target", protocol: Protocol) -> list[tuple[Path, str]]:
    """The first `protocol.num_images` of a directory of images, with their captions where they are needed."""
    assert target.images is not None
    if len(target.images) < protocol.num_images:
        raise InputError(
            f"{config.target}: {len(target.images):,} images, fewer than the {protocol.num_images:,} of the protocol; give "
            f"--images {len(target.images)} (another protocol then, and named so), or more images"
        )
    chosen = target.images[: protocol.num_images]
    bare = next((file for file, caption in chosen if caption is None), None)
    if bare is not None and "alignment" in config.metrics:
        raise InputError(f"{bare}: has no caption, which alignment needs; give --captions FILE or --metrics distances")
    return [(file, caption or "") for file, caption in chosen]


def _costs(target: "Target", images_per_second: float | None, device: "torch.device") -> dict[str, Any]:
    """What the target takes: from its configuration alone, from its training's record, and measured here."""
    from ifuvit.model.flops import cost_of
    from ifuvit.model.settings import IFUViTConfig
    from ifuvit.utils.config import from_dict
    from ifuvit.utils.devices import peak_memory

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

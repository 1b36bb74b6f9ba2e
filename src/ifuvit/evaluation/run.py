"""`ifuvit evaluate`: measure how good a model or a directory of images is, under a named protocol."""

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.evaluation.evaluators import find_evaluator
from ifuvit.evaluation.protocols import protocols
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import lock, manifest, now

if TYPE_CHECKING:
    from ifuvit.evaluation.evaluators.base import Evaluator, Images, Setup
    from ifuvit.evaluation.reference_images import ReferenceImages
    from ifuvit.evaluation.targets import Target


def evaluate(config: EvaluateConfig) -> Path:
    """Evaluate one target and write its `results.Evaluation`. Under `accelerate launch` or `torchrun` all processes call
    it together.

    Args:
        config: of one target and at most one guidance scale; for several see `ifuvit.evaluation.scales.evaluate_scales`.

    Returns:
        `config.out`.

    Raises:
        InputError: a target, data or weights that cannot be used, or too few images for the protocol.
    """
    assert not config.several and config.out is not None
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give a file such as {config.out / 'result.json'}")
    with lock(config.out):
        return _evaluate(config, config.out)


def _evaluate(config: EvaluateConfig, out: Path) -> Path:
    from ifuvit import results
    from ifuvit.evaluation.evaluators.base import Findings
    from ifuvit.evaluation.targets import open_target

    started, (target_name,) = now(), config.targets

    # What is evaluated, and by which evaluators. Missing weights are found before anything is generated.
    setup = setup_of(config)
    protocol, reference, processes = setup.protocol, setup.reference, setup.processes
    target = open_target(target_name, device=setup.device, captions=config.captions)
    evaluators = open_evaluators(config, setup)
    _check_generation(config, target, evaluators.values())
    images = {} if target.images is None else {"captions": _given_images(config, target)}
    for evaluator in evaluators.values():
        evaluator.prepare()

    # The images that evaluators ask for, each set once, and what the evaluators find in them.
    kept = config.images_dir or out.with_name(f"{out.stem}-images")
    if target.generator is not None:
        with lock(kept, inside=True, flag="--images-dir"):  # images that a killed process left half written are removed
            images = _generate(config, setup, target, evaluators.values(), kept)
    found = Findings()
    for evaluator in evaluators.values():
        found += evaluator(images, target)

    if processes.first:
        shown = target.generator is not None and "captions" in images
        result = results.Evaluation(
            **manifest("evaluate", to_dict(config), started=started),
            target=target.describe(),
            protocol=to_dict(protocol),
            data=None if reference is None else _describe(reference),
            metrics=found.metrics,
            objects=found.objects,
            counter=found.counter,
            second_counts=found.second_counts,
            costs=found.costs,
            evaluators={name: evaluator.facts() for name, evaluator in evaluators.items()},
            images=os.path.relpath(kept / "captions", out.parent) if shown else None,
            processes=processes.count,
            device=str(setup.device),
        )
        results.write(out, result)
    processes.wait()
    return out


def setup_of(config: EvaluateConfig) -> "Setup":
    """What the evaluators of a configuration are made from: its protocol, reference images and processes.

    Raises:
        InputError: an evaluator requires reference images and there are none, or they cannot be read.
    """
    from ifuvit.evaluation.evaluators.base import Setup
    from ifuvit.evaluation.reference_images import ReferenceImages
    from ifuvit.utils.devices import find_device
    from ifuvit.utils.distributed import Processes

    protocol = config.resolved_protocol()
    requiring = [name for name in config.resolved_metrics() if find_evaluator(name).requires_reference]
    if config.data is None and requiring:
        raise InputError(
            f"--metrics {requiring[0]} requires --data, the reference images; without them there are --metrics counts"
        )
    processes, device = Processes.init()
    return Setup(
        protocol=protocol,
        reference=None if config.data is None else ReferenceImages.open(config.data, split=protocol.split),
        device=device if config.device == "auto" else find_device(config.device),
        weights=protocol.weights(config.weights),
        statistics=config.statistics,
        cache=config.cache,
        counters=config.counter,
        detector=config.detector,
        threshold=config.threshold,
        thresholds=config.thresholds,
        processes=processes,
    )


def open_evaluators(config: EvaluateConfig, setup: "Setup") -> "dict[str, Evaluator]":
    """The evaluators of a configuration by name, with their networks loaded.

    Raises:
        InputError: weights cannot be loaded; the message says how to get them.
    """
    return {name: find_evaluator(name)(setup) for name in config.resolved_metrics()}


def evaluator_facts(config: EvaluateConfig) -> Mapping[str, Mapping[str, Any]]:
    """What decides the numbers of a configuration's evaluators, with the hashes of all networks, by evaluator."""
    return _evaluator_facts(
        replace(config, targets=("",), out=Path(), data=Path(), guidance_scales=(), images_dir=None, cache=None)
    )


@functools.cache
def _evaluator_facts(config: EvaluateConfig) -> Mapping[str, Mapping[str, Any]]:
    import torch

    from ifuvit.evaluation.evaluators.base import Setup

    protocol = config.resolved_protocol()
    setup = Setup(
        protocol=protocol,
        device=torch.device("cpu"),
        weights=protocol.weights(config.weights),
        statistics=config.statistics,
        counters=config.counter,
        detector=config.detector,
        threshold=config.threshold,
        thresholds=config.thresholds,
    )
    return {name: evaluator.facts() for name, evaluator in open_evaluators(config, setup).items()}


def write_statistics(config: EvaluateConfig) -> Path:
    """Write the statistics of the reference images' features as a .npz file like pytorch-fid's.

    Returns:
        `config.write_statistics`.

    Raises:
        InputError: no reference images or fewer than two, a broken one, or weights that cannot be loaded.
    """
    from ifuvit.evaluation.evaluators.distances import Distances
    from ifuvit.utils.files import package_version

    assert config.write_statistics is not None
    setup = setup_of(replace(config, metrics=("distances",), statistics=None))
    assert setup.reference is not None
    distances = Distances(setup)
    statistics = distances.statistics_of_reference(keep_features=config.keep_features)
    if setup.processes.first:
        facts = {
            "command": "evaluate",
            "ifuvit_version": package_version(),
            "config": to_dict(config),
            "network": distances.networks[0].facts(),
            "size": setup.protocol.size,
            "data": to_dict(_describe(setup.reference)),
            "made": now(),
        }
        statistics.save(config.write_statistics, facts=facts, features=statistics.features)
    setup.processes.wait()
    return config.write_statistics


def _describe(reference: "ReferenceImages") -> Any:
    from ifuvit.results import ReferenceData

    return ReferenceData(
        where=str(reference.place),
        split=reference.split,
        images=len(reference),
        left_out=reference.left_out,
        sha256=reference.fingerprint,
    )


def _check_generation(config: EvaluateConfig, target: "Target", evaluators: "Iterable[Evaluator]") -> None:
    """Refuse settings of images that are not generated.

    Raises:
        InputError: the setting, and why it has no effect.
    """
    names, why = list[str](), f"{config.targets[0]} holds images"
    sets = set[str]()
    if target.generator is not None:
        sets, why = (
            {wanted.name for evaluator in evaluators for wanted in evaluator.image_sets()},
            "no metric needs images",
        )
    if not sets:
        protocol = protocols[config.protocol]
        names += (config.sampling or protocol.sampling).differences(protocol.sampling)
        names += [name for name in ("seed", "images_dir", "batch_size") if getattr(config, name) is not None]
        names += ["count_prompts"] if config.count_prompts else []
    elif "captions" not in sets and config.num_images is not None:
        names, why = ["num_images"], f"--metrics {' '.join(config.resolved_metrics())} generates no captions' images"
    if names:
        raise InputError(f"--{names[0].replace('_', '-')}: has no effect, for {why}; leave it out")


def _given_images(config: EvaluateConfig, target: "Target") -> "Images":
    """The images of a directory, with their captions where they are needed: the protocol's number of them if they are
    compared with reference images, else all."""
    from ifuvit.evaluation.evaluators.base import Images

    assert target.images is not None
    chosen = target.images
    if config.data is not None:
        number = config.resolved_protocol().num_images
        if len(chosen) < number:
            raise InputError(
                f"{target.name}: {len(chosen):,} images, fewer than the {number:,} of the protocol; give --num-images "
                f"{len(chosen)} (another protocol then, and named so), or more images"
            )
        chosen = chosen[:number]
    bare = next((file for file, caption in chosen if caption is None), None)
    requiring = [name for name in config.resolved_metrics() if find_evaluator(name).requires_captions]
    if bare is not None and requiring:
        raise InputError(
            f"{bare}: has no caption, which {requiring[0]} requires; give --captions FILE or --metrics distances"
        )
    return Images(files=[file for file, _ in chosen], prompts=[caption or "" for _, caption in chosen])


def _generate(
    config: EvaluateConfig, setup: "Setup", target: "Target", evaluators: "Iterable[Evaluator]", kept: Path
) -> "dict[str, Images]":
    """All sets of images that evaluators ask for, by name."""
    from ifuvit.evaluation.evaluators.base import Images
    from ifuvit.evaluation.generation import draw

    protocol, images = setup.protocol, {}
    batch_size = config.batch_size or (16 if setup.device.type == "cpu" else 64)
    for wanted in (one for evaluator in evaluators for one in evaluator.image_sets()):
        if wanted.name in images:
            continue
        files, per_second = draw(
            target,
            wanted.prompts,
            kept / wanted.name,
            protocol.sampling.changed(guidance_scale=wanted.guidance_scale),
            seed=protocol.seed,
            batch_size=batch_size,
            processes=setup.processes,
            label=wanted.name,
            replace_others=config.images_dir is None,
        )
        images[wanted.name] = Images(files=files, prompts=wanted.prompts, per_second=per_second)
    return images

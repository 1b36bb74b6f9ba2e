"""The actions of `ifuvit analyze`: load the models, analyze, write."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifuvit import results
from ifuvit.analysis.config import (
    AnalyzeAblateConfig,
    AnalyzeAttentionConfig,
    AnalyzeInformationConfig,
    AnalyzeProbeConfig,
    AnalyzeRankConfig,
)
from ifuvit.data.prompts import read_prompts
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, manifest, now

AnyConfig = (
    AnalyzeAttentionConfig | AnalyzeRankConfig | AnalyzeAblateConfig | AnalyzeProbeConfig | AnalyzeInformationConfig
)


def run(config: AnyConfig) -> tuple[Path, results.Analysis]:
    """Run an action and write its directory: analysis.json (`results.Analysis`), a directory with raw arrays and images for each
    model. Return the directory and the result.

    Raises:
        InputError: a model, prompt, word, block, patch or border that there is not, or a directory that cannot be used.
    """
    action = _ACTION_NAMES[type(config)]
    started = now()
    output = OutputDirectory(config.out, f"analyze {action}", record="analysis.json")
    output.earlier()
    prompts = _prompts(config)

    # Only now what takes seconds to import.
    from ifuvit.analysis.common import check_supported, open_models
    from ifuvit.utils.devices import find_device

    models = open_models(config.models, find_device(config.device))
    check_supported(models, action)
    with output.replace() as directory:
        for model in models:
            (directory / model.name).mkdir()
        fields = _RUNS[type(config)](config, models, prompts, directory)
        analysis = results.Analysis(
            **manifest(f"analyze {action}", to_dict(config), started=started),
            action=action,
            models=tuple(model.target for model in models),
            prompts=tuple(prompts),
            **fields,
        )
        results.write(directory / "analysis.json", analysis)
    return config.out, analysis


_ACTION_NAMES: Mapping[type, Any] = {
    AnalyzeAttentionConfig: "attention",
    AnalyzeRankConfig: "rank",
    AnalyzeAblateConfig: "ablate",
    AnalyzeProbeConfig: "probe",
    AnalyzeInformationConfig: "information",
}


def _prompts(config: AnyConfig) -> list[str]:
    """The prompts of a configuration; none for actions on scenes."""
    if isinstance(config, AnalyzeAttentionConfig):
        prompts = [" ".join(prompt.split()) for prompt in config.prompts]
        prompts += [] if config.prompts_file is None else read_prompts(config.prompts_file)
        spoken = {word for prompt in prompts for word in prompt.split()}
        for word in config.words:
            if word not in spoken:
                raise InputError(f"--words {word}: not in the prompts; their words are {', '.join(sorted(spoken))}")
        return prompts
    if isinstance(config, (AnalyzeRankConfig, AnalyzeAblateConfig)):
        if config.prompts_file is not None:
            return read_prompts(config.prompts_file)
        return _captions(config.num_prompts) if isinstance(config, AnalyzeRankConfig) else _asking(config.num_prompts)
    return []


def _captions(number: int) -> list[str]:
    """The longest caption of each of the first held-out scenes."""
    from ifuvit.data.scenes import draw_scene

    return [max(draw_scene(0, index, split="val", size=32).captions, key=len) for index in range(number)]


def _asking(number: int) -> list[str]:
    """Prompts for counts and, as many, for relations, evenly spread over all of them."""
    from ifuvit.metrics.counting.prompts import PROMPT_SETS

    counts, relations = PROMPT_SETS["all-kinds"], PROMPT_SETS["relations"]
    half = number - number // 2
    # Steps without a common divisor with the number of prompts: they visit all counts from one to five and all four relations.
    spread = [counts[(place * 41) % len(counts)] for place in range(min(half, len(counts)))]
    return spread + [relations[(place * 13) % len(relations)] for place in range(min(number // 2, len(relations)))]


def _save_images(directory: Path, model: str, images: Sequence[Any]) -> tuple[str, ...]:
    names = tuple(f"{model}/{number:04d}.png" for number in range(len(images)))
    for name, image in zip(names, images, strict=True):
        image.save(directory / name)
    return names


def _attention(
    config: AnalyzeAttentionConfig, models: Sequence[Any], prompts: list[str], directory: Path
) -> dict[str, Any]:
    import math

    from ifuvit.analysis import attention
    from ifuvit.analysis.common import Bands

    bands = Bands(config.bands)
    fields: dict[str, Any] = {"blocks": {}, "bands": bands.edges, "arrays": {}, "images": {}}
    measurements, findings = [], []
    for model in models:  # before the first takes its time
        c = model.model.config
        attention.crop(_zeros(c.num_patches), config.crop_border)
        attention.parse_patches(config.patches, math.isqrt(c.num_patches))
        model.choose(config.blocks)
    for model in models:
        patches = attention.parse_patches(config.patches, math.isqrt(model.model.config.num_patches))
        recorded = attention.record(
            model,
            prompts,
            config.sampling,
            bands=config.bands,
            blocks=config.blocks,
            patches=patches,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        file = f"{model.name}/attention.npz"
        attention.write_recorded(directory / file, recorded, prompts, bands, patches)
        fields["arrays"][model.name] = file
        fields["images"][model.name] = _save_images(directory, model.name, recorded.images)
        fields["blocks"][model.name] = recorded.blocks
        measurements += attention.measurements(model, recorded, bands, config.crop_border) + attention.learned(model)
        findings += attention.findings(model, recorded, config.crop_border)
    notes = ["Attention is that of the patches, on average over heads, evaluations of the network and prompts."]
    if any(model.model.config.two_softmaxes for model in models):
        notes.append(
            "In cross-attention with added outputs text and image have a softmax each: shares of text sum to 1, and so do those "
            "of image and time. Elsewhere all shares together do."
        )
    return {**fields, "measurements": tuple(measurements), "findings": tuple(findings), "notes": tuple(notes)}


def _zeros(size: int) -> Any:
    import numpy as np

    return np.zeros(size)


def _rank(config: AnalyzeRankConfig, models: Sequence[Any], prompts: list[str], directory: Path) -> dict[str, Any]:
    from ifuvit.analysis import attention, rank
    from ifuvit.analysis.common import Bands

    bands = Bands(config.bands)
    fields: dict[str, Any] = {"blocks": {}, "bands": bands.edges, "arrays": {}}
    measurements, spectra = [], []
    for model in models:
        attention.crop(_zeros(model.model.config.num_patches), config.crop_border)
    for model in models:
        found = rank.record_spectra(
            model,
            prompts,
            config.sampling,
            bands=config.bands,
            crop_border=config.crop_border,
            controls=config.controls,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        fields["arrays"][model.name] = f"{model.name}/rank.npz"
        rank.write_spectra(directory / fields["arrays"][model.name], found, prompts, bands)
        fields["blocks"][model.name] = found.blocks
        measurements += rank.measurements(model, found, bands)
        spectra.append((model, found))
    return {
        **fields,
        "measurements": tuple(measurements),
        "findings": tuple(rank.findings(spectra)),
        "notes": (
            "The block of attention has the patches that ask in its rows (without the border) and the text tokens in its columns.",
            rank.SINK_RULE,
            "Shuffled captions: the same noisy latents, read with the caption of another prompt. Untrained model: the same setting "
            "at initialization on the same latents. Random attention: normal queries and keys of the heads' width whose products "
            "vary as much as the block's.",
        ),
    }


def _ablate(config: AnalyzeAblateConfig, models: Sequence[Any], prompts: list[str], directory: Path) -> dict[str, Any]:
    from ifuvit.analysis import ablate, attention
    from ifuvit.analysis.common import Bands
    from ifuvit.evaluation.networks import load_alignment_model, load_counter

    bands = Bands(config.bands)
    fields: dict[str, Any] = {"blocks": {}, "bands": bands.edges, "arrays": {}, "images": {}}
    measurements, findings = [], []
    for model in models:
        model.choose(config.blocks)
    device = models[0].pipeline.device
    aligned = None if config.alignment == "none" else load_alignment_model(config.alignment, device=device)
    counter = None if config.counter in (None, "none") else load_counter(config.counter, device=device)
    for model in models:
        effects = ablate.ablate(
            model,
            prompts,
            config.sampling,
            blocks=config.blocks,
            replace_by=config.replace_by,
            levels=config.levels,
            bands=config.bands,
            sinks=config.sinks,
            alignment=aligned,
            counter=counter,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        fields["arrays"][model.name] = f"{model.name}/ablate.npz"
        ablate.write_effects(directory / fields["arrays"][model.name], effects, prompts, bands)
        fields["images"][model.name] = _save_images(directory, model.name, effects.images[0])
        for one, images in zip(effects.interventions[1:], effects.images[1:], strict=True):
            part = directory / model.name / "-".join([*one.name.split(), *([one.block] if one.block else [])])
            part.mkdir()
            for number, image in enumerate(images):
                image.save(part / f"{number:04d}.png")
        fields["blocks"][model.name] = model.choose(config.blocks)
        measurements += ablate.measurements(model, effects, bands)
        if effects.recorded is not None:
            measurements += attention.measurements(model, effects.recorded, Bands(1), 0)
        findings += ablate.findings(model, effects)
    what = "the null caption's text in the same block" if config.replace_by == "null" else "no text at all"
    low, high = config.levels
    return {
        **fields,
        "measurements": tuple(measurements),
        "findings": tuple(findings),
        "notes": (
            f"An ablated block's image tokens read {what}, in the prompts' branch, at noise levels {low:g} to {high:g}.",
            "Change of the prediction: its squared difference from that with the caption, over the squared difference that no "
            "caption at all makes, at the same noisy latents; 1 is as much as that.",
        ),
    }


def _probe(config: AnalyzeProbeConfig, models: Sequence[Any], prompts: list[str], directory: Path) -> dict[str, Any]:
    from ifuvit.analysis import probe
    from ifuvit.analysis.common import block_names
    from ifuvit.analysis.scenes import draw_scenes

    fields: dict[str, Any] = {"blocks": {}, "bands": (), "arrays": {}}
    measurements, findings = [], []
    for model in models:
        scenes = draw_scenes(config.num_scenes, model.pipeline.image_size, config.seed)
        found = probe.probe(
            model,
            scenes,
            config.levels,
            captions=config.text == "caption",
            seed=config.seed,
            batch_size=config.batch_size,
        )
        fields["arrays"][model.name] = f"{model.name}/probe.npz"
        probe.write_accuracies(directory / fields["arrays"][model.name], found)
        fields["blocks"][model.name] = block_names(model.model)
        measurements += probe.measurements(model, found)
        findings += probe.findings(model, found)
    what = {"null": "the null caption", "caption": "the scene's caption, which tells the labels"}[config.text]
    notes = (
        f"{config.num_scenes} scenes of the split val, a quarter of them for the test; the model reads {what}.",
        "Side: where the kind that is first in the list of kinds stands, seen from the other kind.",
    )
    return {**fields, "measurements": tuple(measurements), "findings": tuple(findings), "notes": notes}


def _information(
    config: AnalyzeInformationConfig, models: Sequence[Any], prompts: list[str], directory: Path
) -> dict[str, Any]:
    from ifuvit.analysis import information
    from ifuvit.analysis.scenes import draw_scenes

    fields: dict[str, Any] = {"blocks": {}, "bands": (), "arrays": {}}
    measurements, findings = [], []
    for model in models:
        # One scene in four has a relation.
        scenes = draw_scenes(5 * config.num_scenes, model.pipeline.image_size, config.seed)
        found = information.measure_information(
            model, scenes, config.num_scenes, config.levels, seed=config.seed, batch_size=config.batch_size
        )
        fields["arrays"][model.name] = f"{model.name}/information.npz"
        information.write_losses(directory / fields["arrays"][model.name], found)
        measurements += information.measurements(model, found)
        findings += information.findings(model, found)
    notes = ("Losses are squared errors of the objective's target, unweighted, with the same noise for every caption.",)
    return {**fields, "measurements": tuple(measurements), "findings": tuple(findings), "notes": notes}


_RUNS: Mapping[type, Callable[..., dict[str, Any]]] = {
    AnalyzeAttentionConfig: _attention,
    AnalyzeRankConfig: _rank,
    AnalyzeAblateConfig: _ablate,
    AnalyzeProbeConfig: _probe,
    AnalyzeInformationConfig: _information,
}

"""`ifuvit bench`: how fast training, sampling, preparation and feature extraction are on this machine, and against what."""

import time
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ifuvit.diffusion.settings import SamplingSettings, Solver
from ifuvit.shipped import DEFAULT_MODEL
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, peak_memory, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest, now, write_json, write_text

if TYPE_CHECKING:
    import torch

    from ifuvit.benchmarks.timing import Rules
    from ifuvit.model.settings import IFUViTConfig

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What all benchmarks have in common."""

    out: Path
    """JSON file to write."""
    rounds: int = 10
    """Rounds; in each, every case has a turn. From six on, ratios have an interval."""
    warmup: int = 3
    """Steps of every case before the first round."""
    turn_seconds: float = 0.2
    """Seconds that a turn lasts at least; short steps are repeated."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where; auto takes an accelerator if there is one. CUDA_VISIBLE_DEVICES says which."""
    threads: int | None = None
    """Threads of a processor; default: torch's, one a core."""
    seed: int = 0
    """Seed of weights and inputs."""

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a directory; give the name of a JSON file")
        _at_least_one(self, "threads")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class BenchModelsConfig(BenchConfig):
    """What benchmarks of the backbone have in common."""

    settings: tuple[str, ...] = ("concat-early", "cross-intermediate")
    """Presets of one size. They take turns, on the same batch."""
    batch_size: int = 8
    """Images a step."""
    precision: tuple[Precision, ...] | None = None
    """One after the other; bf16 is autocast with fp32 weights. Default: fp32, and bf16 where the device has instructions for it."""
    against: Path | None = None
    """A checkout of github.com/baofff/U-ViT. Its own code, in the size of the settings, takes turns with them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("settings", "precision"):
            _some_and_none_twice(self, name)
        _at_least_one(self, "batch_size")


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig(BenchModelsConfig):
    """Time training steps on a batch that is there already: forward, backward, AdamW and the average of the weights."""

    compile: bool = False
    """As for `ifuvit train`. The code of U-ViT stays as it is."""


@dataclass(frozen=True, kw_only=True)
class BenchSampleConfig(BenchModelsConfig):
    """Time steps of guided sampling: with what both branches share computed once, and plainly as two forward passes."""


@dataclass(frozen=True, kw_only=True)
class BenchGenerateConfig(BenchConfig):
    """Time whole images, from prompts to pixels, with few and many solver steps."""

    model: str = DEFAULT_MODEL
    """A shipped model, a run or a pipeline directory."""
    steps: tuple[int, ...] = (50, 25, 20, 15, 10)
    """Solver steps."""
    solver: Solver = "dpm++"
    """Of this package's images; U-ViT's way is dpm++, the paper's."""
    guidance_interval: tuple[float, float] | None = None
    """Also with guidance in this part of the noise range only, in n / 1000."""
    batch_size: int = 16
    """Images drawn at once."""
    precision: tuple[Precision, ...] | None = None
    """One after the other; bf16 is autocast with fp32 weights. Default: fp32, and bf16 where the device has instructions for it."""
    against: Path | None = None
    """A checkout of github.com/baofff/U-ViT. Its own code, with random weights in the model's size, draws too, with the most
    steps and guidance as two passes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "precision"):
            _some_and_none_twice(self, name)
        _at_least_one(self, "batch_size")
        _ = self.sampling  # refuses impossible settings

    @property
    def sampling(self) -> list[SamplingSettings]:
        """All settings to time: the most steps first, guided everywhere first."""
        everywhere = [SamplingSettings(solver=self.solver, steps=steps) for steps in sorted(self.steps, reverse=True)]
        if self.guidance_interval is None:
            return everywhere
        return everywhere + [one.changed(guidance_interval=self.guidance_interval) for one in everywhere]


@dataclass(frozen=True, kw_only=True)
class BenchPrepareConfig(BenchConfig):
    """Time `ifuvit prepare` on images and captions of OpenMoji Scenes, against its encoders alone, and training's loader on
    features of the paper's size (random ones, 134 KB a sample, written to a temporary directory and read from cache)."""

    images: int = 256
    """Images to draw and encode."""
    size: int | None = None
    """Pixels of their sides; default: what the autoencoder was trained on, but 256 at most."""
    autoencoder: str = "openmoji"
    """As for `ifuvit prepare`."""
    text_encoder: str = "minilm"
    """As for `ifuvit prepare`."""
    batch_size: int = 64
    """Images, and captions, encoded at a time."""
    workers: int = 4
    """Threads that read images."""
    samples: int = 1024
    """Samples that the loader reads a step."""
    loader_batch_size: int = 256
    """Samples of a batch."""
    loader_workers: int = 2
    """Threads that make batches ahead of time; 0 leaves this loader out. Their start is part of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "images", "size", "batch_size", "workers", "loader_batch_size")
        if self.samples < self.loader_batch_size:
            raise InputError(f"--samples {self.samples}: fewer than --loader-batch-size {self.loader_batch_size}")
        if self.loader_workers < 0:
            raise InputError(f"--loader-workers {self.loader_workers}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class BenchFeaturesConfig(BenchConfig):
    """Time the extraction of features for distances from image files, against the feature network alone."""

    network: Literal["effnet-lite0", "inception", "dinov2", "clip"] = "effnet-lite0"
    """As for `ifuvit reference-stats`."""
    weights: str | None = None
    """Its weights, where they are not embedded."""
    images: int = 256
    """Images (OpenMoji Scenes) to draw and look at."""
    size: int = 64
    """Pixels of their sides."""
    batch_size: int = 64
    """Images at a time."""
    workers: int | None = None
    """Threads that read images; default: 4, but none on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "images", "size", "batch_size", "workers")


@dataclass(frozen=True, kw_only=True)
class BenchGrowthConfig(BenchConfig):
    """Time steps of settings that differ in image tokens, text tokens or depth, and set their growth beside that of the
    operations that `ifuvit costs` counts. A plot, RESULT.svg, is written beside the file."""

    rounds: int = 6
    """Rounds; in each, every point of an axis has a turn. From six on, numbers have an interval."""
    settings: tuple[str, ...] = ("concat-early", "cross-intermediate")
    """Presets, of which one size is changed at a time. Everything is relative to the preset itself."""
    axis: tuple[Literal["image-tokens", "text-tokens", "depth"], ...] = ("image-tokens", "text-tokens", "depth")
    """What is changed, one after the other."""
    image_tokens: tuple[int, ...] = (64, 144, 256, 576, 1024)
    """Patches of the latents, squares."""
    text_tokens: tuple[int, ...] = (16, 77, 154, 308)
    """Text tokens of a caption."""
    depth: tuple[int, ...] = (4, 8, 12, 16, 20)
    """Blocks beside the middle one, even. Deeper ones have more image-only blocks, and as many fused ones."""
    steps: tuple[Literal["train", "sample"], ...] = ("train", "sample")
    """Of training, of guided sampling, or both, one after the other."""
    batch_size: int = 1
    """Images a step."""
    precision: Precision | None = None
    """bf16 is autocast with fp32 weights. Default: bf16 where the device has instructions for it, else fp32."""
    clock: Literal["wall", "processor"] = "wall"
    """processor counts the processor's time of one thread (--threads 1 --device cpu), on a machine that has other work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("settings", "axis", "steps"):
            _some_and_none_twice(self, name)
        _at_least_one(self, "batch_size")
        if self.clock == "processor" and (self.threads, self.device) != (1, "cpu"):
            raise InputError("--clock processor: tells nothing without --threads 1 --device cpu")
        for name in ("image_tokens", "text_tokens", "depth"):
            _some_and_none_twice(self, name)
            if min(getattr(self, name)) < 1:
                raise InputError(f"--{name.replace('_', '-')} {min(getattr(self, name))}: must be at least 1")


def _some_and_none_twice(config: BenchConfig, name: str) -> None:
    values = getattr(config, name)
    if values is None:
        return
    if not values or len(set(values)) < len(values):
        raise InputError(f"--{name.replace('_', '-')} {' '.join(map(str, values))}: name at least one, and none twice")


def _at_least_one(config: BenchConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def run(config: BenchConfig) -> Path:
    """Measure, and return the JSON file.

    Raises:
        InputError: settings that cannot be, a checkout that cannot be used, or too little memory.
    """
    import torch

    from ifuvit.benchmarks.machine import machine_facts
    from ifuvit.benchmarks.timing import Rules

    started = now()
    rules = Rules(rounds=config.rounds, warmup=config.warmup, turn_seconds=config.turn_seconds)
    device = find_device(config.device)
    config = _settle_precision(config, device)
    action = next(name for name, kind in ACTIONS.items() if isinstance(config, kind))
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        measured = _MEASURES[action](config, rules, device)
        hardware = machine_facts(device)
    except torch.OutOfMemoryError as error:
        raise InputError(f"too little memory on {device} ({str(error).splitlines()[0]}); lower --batch-size") from None
    finally:
        torch.set_num_threads(threads)
    result = manifest(
        f"bench {action}",
        to_dict(config),
        started=started,
        hardware=hardware,
        process_peak_memory=peak_memory(torch.device("cpu")),
        **measured,
    )
    write_json(config.out, result)
    if isinstance(config, BenchGrowthConfig):
        from ifuvit.reporting.plots import as_file
        from ifuvit.reporting.reading import read_bench
        from ifuvit.reporting.speed import growth_plots

        write_text(config.out.with_suffix(".svg"), as_file(*growth_plots(read_bench(config.out))))
    return config.out


def _settle_precision(config: BenchConfig, device: "torch.device") -> BenchConfig:
    """`config` with what its default precision is on `device`, so that the result tells."""
    bf16 = use_bf16("auto", device)
    if isinstance(config, (BenchModelsConfig, BenchGenerateConfig)) and config.precision is None:
        return replace(config, precision=("fp32", "bf16") if bf16 else ("fp32",))
    if isinstance(config, BenchGrowthConfig) and config.precision is None:
        return replace(config, precision="bf16" if bf16 else "fp32")
    return config


def _models(config: BenchModelsConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    """Training or sampling steps, in one precision after the other."""
    from ifuvit.benchmarks.machine import make_accelerator
    from ifuvit.benchmarks.reference import as_uvit, difference_from_uvit, load_reference
    from ifuvit.benchmarks.results import measure_models
    from ifuvit.benchmarks.sampling import difference_from_plain, sampling_cases
    from ifuvit.benchmarks.training import random_batch, training_cases
    from ifuvit.training.config import default_config

    training, seed = isinstance(config, BenchTrainConfig), config.seed
    configs = _settings(config.settings)
    reference = None if config.against is None else load_reference(config.against)
    batch = random_batch(next(iter(configs.values())), config.batch_size, seed=seed, device=device)
    results = {}
    assert config.precision is not None
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        differences = {}
        if reference is not None:
            differences["from_uvit"] = {
                name: difference_from_uvit(setting, reference, batch, accelerator)
                for name, setting in configs.items()
                if setting == as_uvit(setting)
            }
        if isinstance(config, BenchTrainConfig):
            trainings = {
                name: default_config(
                    name,
                    batch_size=config.batch_size,
                    precision=precision,
                    seed=seed,
                    compile=config.compile,
                )
                for name in configs
            }
            cases = training_cases(trainings, reference, batch, accelerator)
        else:
            differences["from_plain"] = {
                name: difference_from_plain(setting, batch, accelerator, seed=seed) for name, setting in configs.items()
            }
            cases = sampling_cases(configs, reference, batch, accelerator, seed=seed)
        results[precision] = {
            **measure_models(cases, configs.values(), rules, device, precision=precision, training=training),
            "differences": differences,
        }
    return {"results": results, "reference": None if reference is None else reference.facts()}


def _generate(config: BenchGenerateConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    import torch

    from ifuvit.benchmarks.generation import generation_cases
    from ifuvit.benchmarks.reference import load_reference
    from ifuvit.benchmarks.results import measure
    from ifuvit.metrics.counting.prompts import PROMPT_SETS
    from ifuvit.pipeline import Pipeline

    reference = None if config.against is None else load_reference(config.against)
    prompts = list(islice(cycle(PROMPT_SETS["paper"]), config.batch_size))
    results = {}
    assert config.precision is not None
    for precision in config.precision:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        pipeline = Pipeline.from_pretrained(config.model, device=device, dtype=dtype)
        cases = generation_cases(pipeline, reference, prompts, config.sampling)
        results[precision] = measure(cases, rules, device)
    return {"results": results, "reference": None if reference is None else reference.facts()}


def _prepare(config: BenchPrepareConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    from ifuvit.benchmarks.images import draw_images
    from ifuvit.benchmarks.preparation import (
        caption_cases,
        image_cases,
        loader_cases,
        write_random_features,
    )
    from ifuvit.benchmarks.results import measure
    from ifuvit.data.prepare import LARGEST_DEFAULT_SIZE
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.model.presets import presets

    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device)
    text_encoder = TextEncoder.from_pretrained(config.text_encoder, device=device)
    size = config.size or min(autoencoder.image_size, LARGEST_DEFAULT_SIZE)
    if size % autoencoder.factor:
        raise InputError(f"--size {size}: not a multiple of {autoencoder.factor}, the autoencoder's factor")
    with TemporaryDirectory() as directory:
        images = draw_images(Path(directory), config.images, size=size, seed=config.seed)
        captions = list(dict.fromkeys(caption for image in images for caption in image.captions))
        features = write_random_features(
            Path(directory) / "features",
            presets["cross-intermediate"],
            config.samples,
            shard_size=config.loader_batch_size,
            seed=config.seed,
        )
        contests = {
            f"images of {size} pixels": image_cases(
                autoencoder, images, size=size, batch_size=config.batch_size, workers=config.workers
            ),
            "captions": caption_cases(text_encoder, captions, batch_size=config.batch_size),
            "features of the paper's size": loader_cases(
                features,
                batch_size=config.loader_batch_size,
                batches=config.samples // config.loader_batch_size,
                workers=config.loader_workers,
                device=device,
                seed=config.seed,
            ),
        }
        return {"results": {name: measure(cases, rules, device) for name, cases in contests.items()}}


def _features(config: BenchFeaturesConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    from ifuvit.benchmarks.extraction import extraction_cases
    from ifuvit.benchmarks.images import draw_images
    from ifuvit.benchmarks.results import measure
    from ifuvit.metrics.distances.feature_networks import load_feature_network

    network = load_feature_network(config.network, weights=config.weights, device=device)
    with TemporaryDirectory() as directory:
        images = draw_images(Path(directory), config.images, size=config.size, seed=config.seed)
        files = [Path(directory) / f"{image.id}.png" for image in images]
        cases = extraction_cases(network, files, batch_size=config.batch_size, workers=config.workers)
        return {
            "network": network.facts(),
            "results": {f"{network.name}, images of {config.size} pixels": measure(cases, rules, device)},
        }


def _growth(config: BenchGrowthConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    from ifuvit.benchmarks.growth import measure_growth, points
    from ifuvit.benchmarks.machine import make_accelerator
    from ifuvit.model.presets import presets

    for name in config.settings:
        if name not in presets:
            raise InputError(f"--settings {name}: unknown; the presets are {', '.join(presets)}")
    settings = {name: presets[name] for name in config.settings}
    values = {axis: getattr(config, axis.replace("-", "_")) for axis in config.axis}
    for axis in config.axis:  # a mistake shows before anything is timed
        points(settings, axis, values[axis])
    assert config.precision is not None
    accelerator = make_accelerator(config.precision, device)
    kinds = {"train": "training steps", "sample": "guided sampling steps"}
    return {
        "results": {
            f"{kinds[kind]} by {axis.replace('-', ' ')}": measure_growth(
                settings,
                axis,
                values[axis],
                kind,
                config.batch_size,
                rules,
                accelerator,
                seed=config.seed,
                clock=time.process_time if config.clock == "processor" else time.perf_counter,
            )
            for kind in config.steps
            for axis in config.axis
        }
    }


def _settings(names: tuple[str, ...]) -> "dict[str, IFUViTConfig]":
    """Presets of one size, by name."""
    from ifuvit.benchmarks.reference import as_uvit
    from ifuvit.model.presets import presets

    for name in names:
        if name not in presets:
            raise InputError(f"--settings {name}: unknown; the presets are {', '.join(presets)}")
        if as_uvit(presets[name]) != as_uvit(presets[names[0]]):
            raise InputError(f"--settings {names[0]} {name}: of different sizes; give presets of one size at a time")
    return {name: presets[name] for name in names}


ACTIONS: dict[str, type[BenchConfig]] = {
    "train": BenchTrainConfig,
    "sample": BenchSampleConfig,
    "generate": BenchGenerateConfig,
    "prepare": BenchPrepareConfig,
    "features": BenchFeaturesConfig,
    "growth": BenchGrowthConfig,
}
_MEASURES: dict[str, Any] = {
    "train": _models,
    "sample": _models,
    "generate": _generate,
    "prepare": _prepare,
    "features": _features,
    "growth": _growth,
}

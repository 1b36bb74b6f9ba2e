"""`ifuvit bench`: how fast training and sampling are on this machine, against each other and against U-ViT's own code."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ifuvit.artifacts import manifest, now, read_json, write_json
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.devices import find_device, peak_memory
from ifuvit.errors import InputError

if TYPE_CHECKING:
    import torch

    from ifuvit.benchmarks.timing import Rules
    from ifuvit.model.uvit import IFUViTConfig

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What all benchmarks have in common."""

    out: Path
    """JSON file to write."""
    rounds: int = 10
    """Rounds; in each, every contestant has a turn. From six on, ratios have an interval."""
    warmup: int = 3
    """Steps of every contestant before the first round."""
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
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads {self.threads}: must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class BenchModelsConfig(BenchConfig):
    """What benchmarks of the backbone have in common."""

    settings: tuple[str, ...] = ("concat-early", "cross-intermediate")
    """Presets of one size. They take turns, on the same batch."""
    batch_size: int = 8
    """Pictures a step."""
    precision: tuple[Precision, ...] = ("fp32", "bf16")
    """One after the other; bf16 is autocast with fp32 weights."""
    against: Path | None = None
    """A checkout of github.com/baofff/U-ViT. Its own code, in the size of the settings, takes turns with them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("settings", "precision"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"--{name} {' '.join(values)}: name at least one, and none twice")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig(BenchModelsConfig):
    """Time training steps on a batch that is there already: forward, backward, AdamW and the average of the weights."""


@dataclass(frozen=True, kw_only=True)
class BenchSampleConfig(BenchModelsConfig):
    """Time steps of guided sampling: with what both branches share computed once, and plainly as two forward passes."""


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
    action = next(name for name, kind in _ACTIONS.items() if isinstance(config, kind))
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
    return config.out


def _train(config: BenchTrainConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    from ifuvit.benchmarks.machine import make_accelerator
    from ifuvit.benchmarks.reference import as_uvit, difference, load_reference
    from ifuvit.benchmarks.results import measure_models
    from ifuvit.benchmarks.training import random_batch, training_contestants
    from ifuvit.training.recipe import default_config

    configs = _settings(config.settings)
    reference = None if config.against is None else load_reference(config.against)
    batch = random_batch(next(iter(configs.values())), config.batch_size, seed=config.seed, device=device)
    results, differences = {}, {}
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        if reference is not None:
            differences[precision] = {
                name: difference(setting, reference, batch, accelerator)
                for name, setting in configs.items()
                if setting == as_uvit(setting)
            }
        recipes = {
            name: replace(default_config(name), batch_size=config.batch_size, precision=precision, seed=config.seed)
            for name in configs
        }
        contestants = training_contestants(recipes, reference, batch, accelerator)
        results[precision] = measure_models(
            contestants, configs.values(), rules, device, precision=precision, training=True
        )
    return {
        "results": results,
        "reference": None if reference is None else {**reference.facts(), "differences": differences},
    }


def _sample(config: BenchSampleConfig, rules: "Rules", device: "torch.device") -> dict[str, Any]:
    from ifuvit.benchmarks.machine import make_accelerator
    from ifuvit.benchmarks.reference import load_reference
    from ifuvit.benchmarks.results import measure_models
    from ifuvit.benchmarks.sampling import difference, sampling_contestants
    from ifuvit.benchmarks.training import random_batch

    configs = _settings(config.settings)
    reference = None if config.against is None else load_reference(config.against)
    batch = random_batch(next(iter(configs.values())), config.batch_size, seed=config.seed, device=device)
    results, differences = {}, {}
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        differences[precision] = {
            name: difference(setting, batch, accelerator, seed=config.seed) for name, setting in configs.items()
        }
        contestants = sampling_contestants(configs, reference, batch, accelerator, seed=config.seed)
        results[precision] = measure_models(
            contestants, configs.values(), rules, device, precision=precision, training=False
        )
    return {
        "results": results,
        "shared_from_plain": differences,
        "reference": None if reference is None else reference.facts(),
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


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a result as text."""
    from ifuvit.benchmarks.results import table

    hardware = result["hardware"]
    lines = [f"{hardware['name']} ({hardware['device']}), {hardware['threads']} threads, torch {hardware['torch']}"]
    for precision, measured in result["results"].items():
        peak = measured["peak"]
        lines += [
            "",
            f"{precision}; peak {peak['flops_per_second'] / 1e9:,.4g} GFLOP/s ({peak['of']})",
            *table(measured["rows"]),
        ]
    return "\n".join(lines)


_HELP = """usage: ifuvit bench ACTION [ARGUMENTS]

Time this package on this machine. What is compared takes turns in rounds, on the same tensors, in one run.

actions:
  train     --settings PRESETS --out RESULT.json   training steps
  sample    --settings PRESETS --out RESULT.json   steps of guided sampling

--against CHECKOUT lets the official code of U-ViT take part in train and sample.

`ifuvit bench ACTION --help` tells an action's arguments."""
_ACTIONS: dict[str, type[BenchConfig]] = {"train": BenchTrainConfig, "sample": BenchSampleConfig}
_MEASURES: dict[str, Any] = {"train": _train, "sample": _sample}


def main(arguments: list[str]) -> None:
    """Entry point of the verb."""
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(_HELP)
        return
    if action not in _ACTIONS:
        raise InputError(f"unknown action {action!r}; the actions are {', '.join(_ACTIONS)}")
    written = run(parse(_ACTIONS[action], rest, prog=f"ifuvit bench {action}"))
    print(result_table(read_json(written)))
    print(f"\n{written}: written")

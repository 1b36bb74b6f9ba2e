"""Configurations of `ifuvit bench`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from tyro.conf import Positional, arg

from ifuvit.diffusion.settings import MAX_STEPS, SamplingSettings
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig, as_uvit
from ifuvit.shipped import DEFAULT_MODEL
from ifuvit.utils.command_line import Inline
from ifuvit.utils.config import NonNegative, Positive, Range, check, idle
from ifuvit.utils.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """How long cases are timed."""

    rounds: Positive[int] = 10
    """Rounds; each runs every case. From six on, ratios have an interval."""
    warmup: Annotated[int, Range(least=2)] = 3
    """Steps of every case before the first round."""
    min_seconds: NonNegative[float] = 0.2
    """How long each case runs in a round at least; short steps are repeated."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class BenchConfig(TimingConfig):
    """What all benchmarks have in common."""

    out: Path
    """JSON file to write."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where; auto takes an accelerator if there is one. CUDA_VISIBLE_DEVICES says which."""
    threads: Positive[int] | None = None
    """Threads of a processor; default: torch's, one per core."""
    seed: NonNegative[int] = 0
    """Seed of weights and inputs."""
    precision: tuple[Precision, ...] = ("auto",)
    """One after the other; bf16 is autocast with fp32 weights. auto: fp32, and bf16 where the device has instructions for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_out(self.out)
        self._check_distinct("precision")

    def settled(self, *, bf16: bool) -> Self:
        """With the precisions that "auto" stands for on a device that has bf16 instructions or not."""
        if "auto" not in self.precision:
            return self
        return replace(self, precision=("fp32", "bf16") if bf16 else ("fp32",))

    def _check_distinct(self, *names: str) -> None:
        for name in names:
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"--{name.replace('_', '-')} {' '.join(map(str, values))}: name at least one, and none twice"
                )


@dataclass(frozen=True, kw_only=True)
class BenchAgainstConfig(BenchConfig):
    """What benchmarks have in common that U-ViT's own code can take part in."""

    batch_size: Positive[int] = 8
    """Images per step."""
    against: Path | None = None
    """A checkout of github.com/baofff/U-ViT, whose own code in the same size is timed in the same rounds."""


@dataclass(frozen=True, kw_only=True)
class BenchModelsConfig(BenchAgainstConfig):
    """What benchmarks of the backbone have in common."""

    settings: tuple[str, ...] = ("concat-early", "cross-intermediate")
    """Presets of one size, timed in the same rounds on the same batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_distinct("settings")
        models = list(preset_models(self.settings).values())
        if any(as_uvit(model) != as_uvit(models[0]) for model in models):
            raise InputError(f"--settings {' '.join(self.settings)}: of different sizes; give presets of one size")


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig(BenchModelsConfig):
    """Training steps on a batch that is already loaded: forward, backward, AdamW and the average of the weights.

    Example: ifuvit bench train --against U-ViT --out train.json
    """

    compile: bool = False
    """As for `ifuvit train`. The code of U-ViT stays as it is."""


@dataclass(frozen=True, kw_only=True)
class BenchSampleConfig(BenchModelsConfig):
    """Steps of guided sampling: with what both branches share computed once, and plainly as two forward passes.

    Example: ifuvit bench sample --settings concat-early cross-intermediate --out sample.json
    """


@dataclass(frozen=True, kw_only=True)
class BenchGenerateConfig(BenchAgainstConfig):
    """Whole images, from prompts to pixels, with few and many solver steps. The code of U-ViT has random weights; it takes
    the most steps, with guidance as two forward passes.

    Example: ifuvit bench generate --steps 50 15 --out generate.json
    """

    batch_size: Positive[int] = 16
    """Images generated at once."""
    model: str = DEFAULT_MODEL
    """A shipped model, a run or a pipeline directory."""
    steps: tuple[Annotated[int, Range(least=1, most=MAX_STEPS)], ...] = (50, 25, 20, 15, 10)
    """Solver steps."""
    guidance_interval: tuple[float, float] | None = None
    """Also with guidance in this part of the noise range only, in n / 1000."""
    sampling: Annotated[SamplingSettings, Inline()] = SamplingSettings(solver="dpm++")
    """Everything else about this package's images; U-ViT's way is dpm++, the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_distinct("steps")
        _ = self.cases  # refuses impossible settings

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        return self.sampling.without_effect()

    @property
    def cases(self) -> list[SamplingSettings]:
        """All settings to time: the most steps first, guided everywhere first."""
        everywhere = [replace(self.sampling, steps=steps) for steps in sorted(self.steps, reverse=True)]
        if self.guidance_interval is None:
            return everywhere
        return everywhere + [replace(one, guidance_interval=self.guidance_interval) for one in everywhere]


@dataclass(frozen=True, kw_only=True)
class BenchOnnxConfig(BenchConfig):
    """A model's graphs in onnxruntime next to torch, in fp32 on the CPU: text path, guided step, decoder (extra `onnx`).

    Example: ifuvit bench onnx --batch-size 4 --out onnx.json
    """

    model: str = DEFAULT_MODEL
    """A shipped model, a run or a pipeline directory."""
    batch_size: Positive[int] = 8
    """Prompts or images at once."""
    precision: tuple[Precision, ...] = ("fp32",)
    """Only fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != ("fp32",):
            raise InputError(f"--precision {' '.join(self.precision)}: the graphs compute in fp32")


@dataclass(frozen=True, kw_only=True)
class BenchScalingConfig(BenchConfig):
    """Steps of settings that differ in image tokens, text tokens or depth, next to the operations that `ifuvit costs`
    counts. A plot is written next to the result, as RESULT.svg.

    Example: ifuvit bench scaling --axis depth --out scaling.json
    """

    rounds: Positive[int] = 6
    """Rounds; each runs every point of an axis. From six on, numbers have an interval."""
    precision: tuple[Precision, ...] = ("auto",)
    """One after the other; bf16 is autocast with fp32 weights. auto: bf16 where the device has instructions for it, else fp32."""
    settings: tuple[str, ...] = ("concat-early", "cross-intermediate")
    """Presets, of which one size is changed at a time. Everything is relative to the preset itself."""
    axis: tuple[Literal["image-tokens", "text-tokens", "depth"], ...] = ("image-tokens", "text-tokens", "depth")
    """What is changed, one after the other."""
    image_tokens: tuple[Positive[int], ...] = (64, 144, 256, 576, 1024)
    """Patches of the latents, squares."""
    text_tokens: tuple[Positive[int], ...] = (16, 77, 154, 308)
    """Text tokens of a caption."""
    depth: tuple[Positive[int], ...] = (4, 8, 12, 16, 20)
    """Blocks without the middle one, even. Deeper ones have more image-only blocks, and as many fused ones."""
    steps: tuple[Literal["train", "sample"], ...] = ("train", "sample")
    """Of training, of guided sampling, or both, one after the other."""
    batch_size: Positive[int] = 1
    """Images per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_distinct("settings", "axis", "steps", "image_tokens", "text_tokens", "depth")
        preset_models(self.settings)

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        axes = ("image-tokens", "text-tokens", "depth")
        return idle(*((axis not in self.axis, (axis,), f"without --axis {axis}") for axis in axes))

    def settled(self, *, bf16: bool) -> Self:
        config = super().settled(bf16=bf16)
        return config if config is self else replace(config, precision=config.precision[-1:])


def preset_models(names: tuple[str, ...]) -> dict[str, IFUViTConfig]:
    """Presets by name.

    Raises:
        InputError: there is none of such a name.
    """
    for name in names:
        if name not in presets:
            raise InputError(f"--settings {name}: unknown; the presets are {', '.join(presets)}")
    return {name: presets[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class BenchQualityConfig:
    """Minutes of training until 80, 90 and 95 % of counts and 50, 80 and 90 % of relations are right, and the learning curves
    of several runs side by side. Read from the logs of runs that were trained with --evaluate-every and --evaluate-data on
    OpenMoji Scenes; a plot is written next to the result, as RESULT.svg.

    Example: ifuvit bench quality runs/recipe runs/without-muon --out quality.json
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN")]]
    """Run directories of `ifuvit train`."""
    out: Path
    """JSON file to write."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("no RUN; name run directories of `ifuvit train`")
        for place, run in enumerate(self.runs):
            if run.resolve() in [other.resolve() for other in self.runs[:place]]:
                raise InputError(f"RUN {run} is given twice")
        _check_out(self.out)


def _check_out(out: Path) -> None:
    """Refuse a directory, and a name that the plot next to the result would have."""
    if out.is_dir():
        raise InputError(f"--out {out}: is a directory; give the name of a JSON file")
    if out.suffix.lower() == ".svg":
        raise InputError(f"--out {out}: is the result, which is JSON; give the name of a JSON file")


ACTIONS: dict[str, type[BenchConfig] | type[BenchQualityConfig]] = {
    "train": BenchTrainConfig,
    "sample": BenchSampleConfig,
    "generate": BenchGenerateConfig,
    "onnx": BenchOnnxConfig,
    "scaling": BenchScalingConfig,
    "quality": BenchQualityConfig,
}

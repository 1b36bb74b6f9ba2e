"""`ifuvit sweep`: distance against text-image alignment over guidance scales, for several models on the same captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro import MISSING
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional, arg

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation import run as evaluate
from ifuvit.evaluation.config import ProtocolName
from ifuvit.evaluation.protocols import protocols
from ifuvit.evaluation.run import EvaluateConfig
from ifuvit.shipped import find
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now, package_version, read_json, sha256, write_json

# What changes an evaluation's numbers besides protocol, data and the model's weights.
_JUDGES = ("metrics", "statistics", "weights", "counter", "detector")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The curve of distance against alignment over guidance scales (the paper's Fig. 3, right): every model at every
    scale draws the same captions from the same seeds. The same command again goes on where it stopped."""

    targets: Positional[Annotated[tuple[str, ...], arg(metavar="RUN")]]
    """Models: runs, pipeline directories or shipped names."""
    data: Path
    """The real images and their captions, as for `ifuvit evaluate`."""
    out: Path
    """Directory to write: sweep.json, and the result and images of every point."""
    guidance_scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    """The standard w; 1 is no guidance. The paper counts s = w - 1."""
    protocol: ProtocolName = "quick"
    """As for `ifuvit evaluate`; so are the next options."""
    images: Annotated[int | None, arg(metavar="INT")] = None
    """Images a point, instead of the protocol's."""
    sampling: Annotated[SamplingSettings | None, OmitArgPrefixes, AvoidSubcommands] = None
    """Instead of the protocol's, which is None; `guidance_scales` take the place of its guidance scale."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Of the noise, instead of the protocol's."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """The real side's statistics, instead of computing its features."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded."""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the real side's features are kept. Default: OUT/cache."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Images drawn at once. It does not change them."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("no models; name runs, pipeline directories or shipped models")
        if not self.guidance_scales:
            raise InputError("--guidance-scales: give at least one")
        own = protocols[self.protocol].sampling.guidance_scale
        if self.sampling is not None and self.sampling.guidance_scale != own:
            raise InputError(f"--guidance-scale {self.sampling.guidance_scale:g}: a sweep takes --guidance-scales")
        if twice := [w for w in self.guidance_scales if self.guidance_scales.count(w) > 1]:
            raise InputError(f"guidance scale {twice[0]} is given twice")


def default_config(protocol: ProtocolName) -> SweepConfig:
    """The defaults of the command line under a protocol: its own sampling settings. Required fields are missing."""
    return SweepConfig(
        targets=MISSING, data=MISSING, out=MISSING, protocol=protocol, sampling=protocols[protocol].sampling
    )


def run(config: SweepConfig) -> Path:
    """Evaluate the points that are not done yet. Under `accelerate launch` or `torchrun` all processes call it together.

    sweep.json is written after every point and is valid at any time: "complete" says whether all points are there, and
    "missing" lists those that are not.

    Returns:
        `config.out`.

    Raises:
        InputError: an unknown model, a directory that holds something else, or whatever `ifuvit evaluate` refuses.
    """
    from ifuvit.utils.distributed import Processes

    started = now()
    for target in config.targets:
        find(target)
    _check(config.out)
    points = evaluations(config)
    data = fingerprint(points[0][2])
    results = [finished(wanted, data) for _, _, wanted in points]
    processes, _ = Processes.init()
    processes.wait()  # all have looked before one writes

    def write() -> None:
        done = [(point, result) for point, result in zip(points, results) if result is not None]
        missing = [point for point, result in zip(points, results) if result is None]
        shared = done[0][1] if done else {}
        content = {
            "command": "sweep",
            "ifuvit_version": package_version(),
            "config": to_dict(config),
            "complete": not missing,
            "protocol": shared.get("protocol"),
            "data": shared.get("data"),
            "points": [
                {
                    "model": label,
                    "guidance_scale": w,
                    "result": str(wanted.out.relative_to(config.out)),
                    "metrics": result["metrics"],
                }
                for (label, w, wanted), result in done
            ],
            "missing": [{"model": label, "guidance_scale": w} for label, w, _ in missing],
            "started": started,
            "finished": now(),
        }
        if processes.first:
            write_json(config.out / "sweep.json", content)

    write()
    for place, (_, _, wanted) in enumerate(points):
        if results[place] is None:
            results[place] = read_json(evaluate.run(wanted))
            write()
    return config.out


def evaluations(config: SweepConfig) -> list[tuple[str, float, EvaluateConfig]]:
    """The points of a sweep: the model's label, the guidance scale, and the evaluation."""
    names = labels(config.targets)
    return [
        (names[target], w, _evaluation(config, target, names[target], w))
        for target in config.targets
        for w in config.guidance_scales
    ]


def finished(wanted: EvaluateConfig, data: str) -> dict[str, Any] | None:
    """The result at `wanted.out` if `evaluate.run(wanted)` would give the same one again; None if there is none, or one
    of another protocol, other data or other weights.

    Args:
        wanted: an evaluation of a model of this package.
        data: `fingerprint` of it.

    Raises:
        InputError: a file at `wanted.out` that is no result.
    """
    if not wanted.out.is_file():
        return None
    result = read_json(wanted.out)
    if not (isinstance(result, dict) and result.get("command") == "evaluate"):
        raise InputError(f"{wanted.out}: is no result of `ifuvit evaluate`; give another --out")
    try:
        weights = find(wanted.target) / "transformer" / "model.safetensors"
    except InputError:
        return None
    settings = to_dict(wanted)
    same = (
        result["protocol"] == to_dict(wanted.resolved_protocol())
        and all(result["config"].get(key) == settings[key] for key in _JUDGES)
        and result["data"]["sha256"] == data
        and result["target"]["sha256"] == sha256(weights)
    )
    return result if same else None


def fingerprint(evaluation: EvaluateConfig) -> str:
    """SHA-256 of the real side of an evaluation, as its result has it."""
    from ifuvit.evaluation.reference_images import ReferenceImages

    return ReferenceImages.open(evaluation.data, split=evaluation.resolved_protocol().split).fingerprint


def labels(targets: Sequence[str]) -> dict[str, str]:
    """A short name for each of several different targets: the last part of its path, or as many parts as tell all of
    them apart."""
    parts = {target: Path(target).parts for target in targets}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {target: "/".join(part[-length:]) for target, part in parts.items()}
        if len(set(short.values())) == len(targets):
            return short
    raise InputError(f"a model is given twice: {', '.join(targets)}")


def _check(out: Path) -> None:
    """Refuse a directory that holds something else."""
    if (out / "sweep.json").is_file():
        before = read_json(out / "sweep.json")
        if isinstance(before, dict) and before.get("command") == "sweep":
            return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is no sweep; give another --out")


def _evaluation(config: SweepConfig, target: str, label: str, guidance_scale: float) -> EvaluateConfig:
    return EvaluateConfig(
        target=target,
        data=config.data,
        out=config.out / f"{label.replace('/', '-')}-w{guidance_scale:g}.json",
        protocol=config.protocol,
        metrics=("distances", "alignment"),
        num_images=config.images,
        sampling=(config.sampling or protocols[config.protocol].sampling).changed(guidance_scale=guidance_scale),
        seed=config.seed,
        statistics=config.statistics,
        weights=config.weights,
        cache=config.cache or config.out / "cache",
        device=config.device,
        batch_size=config.batch_size,
    )

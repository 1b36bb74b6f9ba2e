"""The configuration of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional, arg

from ifuvit.data.prompts import PromptSet
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.evaluators import EVALUATORS
from ifuvit.evaluation.protocols import Protocol, protocols
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.config import Positive, check, idle
from ifuvit.utils.errors import InputError

ProtocolName = Literal["quick", "skills", "paper", "clean"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate models or images: Fréchet and kernel distances from reference images, text-image alignment, object counts
    and costs, each with its interval.

    A model generates the protocol's captions first; the images are kept next to the result, and those that are there
    already are not generated again. Several models, or several guidance scales, make a directory with a result for each
    and a sweep.json; the same command again continues where it stopped. docs/evaluation.md says what every protocol
    fixes.

    Example:
        ifuvit evaluate openmoji-cross-intermediate --data scenes --out result.json
    """

    targets: Positional[Annotated[tuple[str, ...], arg(metavar="TARGET")]] = ()
    """Shipped models, runs, pipeline directories, diffusers pipelines (a directory or a name on the hub), or one directory
    of images with captions. None: only write --write-statistics."""
    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """The reference images and their captions: a directory of `ifuvit scenes`, MS-COCO unpacked, or a captioned folder.
    Not required where only the objects in a directory of images are counted."""
    out: Path | None = None
    """The result, a JSON file; of several models or guidance scales a directory."""
    protocol: ProtocolName = "quick"
    """quick: 1,000 images and the embedded networks. skills: as quick, with more images of every skill. paper: FID-30K and CLIP score as U-ViT has them. clean: as paper,
    with clean-fid's resize."""
    metrics: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """What to measure: distances, alignment, counts, costs, diversity. Default: the first four; over several guidance
    scales distances and alignment."""
    num_images: int | None = None
    """Images, instead of the protocol's number. The name of the result's protocol then says that it was changed, as it
    does for sampling settings, seed and counting prompts."""
    sampling: Annotated[SamplingSettings | None, OmitArgPrefixes, AvoidSubcommands] = None
    """Instead of the protocol's, which is None."""
    guidance_scales: Annotated[tuple[float, ...], arg(metavar="FLOAT")] = ()
    """Several guidance scales, a result each: a curve of distance against alignment (the paper's Fig. 3, right)."""
    seed: int | None = None
    """Of the noise, instead of the protocol's."""
    count_prompts: Annotated[tuple[str, ...], arg(metavar="SET=INT")] = ()
    """Sets of counting prompts with the images a prompt, instead of the protocol's, as `paper=10 all-kinds=2`. The sets are
    paper, all-kinds, relations, grounds, held-out-counts, held-out-relations, paraphrases, relation-paraphrases and
    coco."""
    captions: Annotated[Path | None, arg(metavar="FILE")] = None
    """One caption a line for a directory of bare images, in the order of their names."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """Statistics of the reference images' features, of --write-statistics or pytorch-fid, instead of computing them."""
    write_statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """Write the statistics of the reference images' features, in pytorch-fid's form."""
    keep_features: bool = False
    """Keep the features in --write-statistics too, so that KID, precision and recall can be computed from the file."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded, as `inception=FILE.pth` or `clip=FOLDER`."""
    counter: Annotated[tuple[str, ...], arg(metavar="NAME|DIR")] = ("openmoji",)
    """The counter of drawn objects: the shipped one, or a directory of a trained one. Further ones count the same images
    again, and the result says how far they agree with the first."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """Count objects by this zero-shot detector of transformers, as google/owlv2-base-patch16-ensemble; for photographs."""
    threshold: float | None = None
    """Least score of a detector's box that counts; fix it before you see the result. Default: 0.1 for OWLv2, 0.25 for
    Grounding DINO."""
    thresholds: Annotated[tuple[float, ...], arg(metavar="FLOAT")] = ()
    """Further least scores of an object to count with, next to the reported one."""
    images_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the images are kept. Default: next to the result, RESULT-images."""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """Keep the reference images' features here for the next evaluation. Default: OUT/cache where OUT is a directory."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    batch_size: Positive[int] | None = None
    """Images generated at once. Default: 16 on a CPU, else 64. It does not change them."""

    def __post_init__(self) -> None:
        check(self)
        for name in self.metrics:
            if name not in EVALUATORS:
                raise InputError(f"--metrics {name}: unknown; the metrics are {', '.join(EVALUATORS)}")
        for what, values in (
            ("target", self.targets),
            ("--guidance-scales", self.guidance_scales),
            ("--counter", self.counter),
        ):
            if twice := [value for value in values if values.count(value) > 1]:
                raise InputError(f"{what} {twice[0]} is given twice")
        if not self.counter:
            raise InputError("--counter: name at least one")
        if self.detector is not None and len(self.counter) > 1:
            raise InputError("--counter: several counters count drawn objects, which --detector does not")
        for name, thresholds in (("threshold", (self.threshold,)), ("thresholds", self.thresholds)):
            for threshold in thresholds:
                if threshold is not None and not 0 < threshold < 1:
                    raise InputError(f"--{name} {threshold}: must be between 0 and 1")
        if self.write_statistics is not None and self.write_statistics.suffix != ".npz":
            raise InputError(f"--write-statistics {self.write_statistics}: give a name that ends with .npz")
        if self.keep_features and self.write_statistics is None:
            raise InputError("--keep-features is for --write-statistics")
        if self.write_statistics is not None and len(protocols[self.protocol].networks) > 1:
            raise InputError(f"--write-statistics: protocol {self.protocol} has several feature networks")
        if self.images_dir is not None and self.several:
            raise InputError("--images-dir is for one model at one guidance scale; several are kept under --out")
        protocols[self.protocol].weights(self.weights)
        for point in self.points() if self.targets and self.out else (self,):
            point.resolved_protocol()  # refuses impossible values

    def check_complete(self) -> None:
        """Refuse a command line that asks for nothing.

        Raises:
            InputError: TARGET or --out is missing.
        """
        if bool(self.targets) != (self.out is not None):
            raise InputError("give TARGET and --out together")
        if not self.targets and self.write_statistics is None:
            raise InputError("no TARGET; name a model or a directory of images")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others. What only a model needs is refused when it is known what TARGET is."""
        protocol = self.resolved_protocol()
        if not self.targets and self.write_statistics is None:
            return {}  # `check_complete` refuses that
        if not self.targets:
            what = (
                "metrics",
                "guidance_scales",
                "seed",
                "count_prompts",
                "captions",
                "statistics",
                "counter",
                "detector",
            )
            more = ("threshold", "thresholds", "images_dir", "batch_size", *(f.name for f in fields(SamplingSettings)))
            return idle(
                (True, (*what, *more), "without TARGET"),
                (not self.keep_features, ("cache",), "without TARGET or --keep-features"),
                (protocol.reference == "all", ("num_images",), f"with --protocol {self.protocol}, without TARGET"),
                *self._idle_weights(features=True, alignment=False),
            )
        metrics = self.resolved_metrics()
        distances, diversity, asked = ("distances" in metrics, "diversity" in metrics, "counts" in metrics)
        counted = asked and (self.detector is not None or protocol.counts_scenes)
        counting = ("counter", "threshold", "thresholds")
        sampling = self.sampling or protocol.sampling
        guided = counted or diversity or self.guidance_scales  # these have scales of their own
        return idle(
            (not asked, (*counting, "detector"), "without --metrics counts"),
            (not counted, counting, f"with --protocol {self.protocol} without --detector"),
            (self.detector is not None, ("counter",), "with --detector"),
            (not asked and not diversity, ("count_prompts",), "without --metrics counts"),
            (not counted and not diversity, ("count_prompts",), f"with --protocol {self.protocol} without --detector"),
            (not distances, ("statistics",), "without --metrics distances"),
            (not distances and not self.keep_features, ("cache",), "without --metrics distances"),
            ({*metrics} <= {"distances", "costs"}, ("captions",), f"with --metrics {' '.join(metrics)}"),
            (self.data is None, ("num_images",), "without --data"),
            (bool(self.guidance_scales), ("guidance_scale",), "with --guidance-scales"),
            *self._idle_weights(
                features=distances or diversity or self.write_statistics is not None, alignment="alignment" in metrics
            ),
        ) | ({} if guided else sampling.without_effect())

    def _idle_weights(self, *, features: bool, alignment: bool) -> list[tuple[bool, tuple[str, ...], str]]:
        """Whether one of --weights is of a network that nothing is measured by."""
        protocol = protocols[self.protocol]
        used = (*(protocol.networks if features else ()), *(protocol.alignment if alignment else ()))
        unused = [name for name in protocol.weights(self.weights) if name not in used]
        wanted = "alignment" if unused and unused[0] in protocol.alignment else "distances"
        return [(bool(unused), ("weights",), f"for {''.join(unused[:1])} without --metrics {wanted}")]

    @property
    def several(self) -> bool:
        """Whether there are several models, or --guidance-scales, with a result each."""
        return len(self.targets) > 1 or bool(self.guidance_scales)

    def points(self) -> "list[EvaluateConfig]":
        """The evaluations of every model at every guidance scale, one each."""
        assert self.out is not None
        if not self.several:
            return [self]
        names, sampling = labels(self.targets), self.sampling or protocols[self.protocol].sampling
        return [
            replace(
                self,
                targets=(target,),
                guidance_scales=(),
                sampling=sampling if scale is None else sampling.changed(guidance_scale=scale),
                out=self.out / f"{names[target].replace('/', '-')}{'' if scale is None else f'-w{scale:g}'}.json",
                metrics=self.resolved_metrics(),
                write_statistics=None,
                keep_features=False,
                cache=self.cache or self.out / "cache",
            )
            for target in self.targets
            for scale in self.guidance_scales or (None,)
        ]

    def resolved_metrics(self) -> tuple[str, ...]:
        """The names of the evaluators."""
        default = ("distances", "alignment")
        return self.metrics or (default if self.guidance_scales else (*default, "counts", "costs"))

    def resolved_protocol(self) -> Protocol:
        """The protocol with this configuration's changes, which are added to its name."""
        base = protocols[self.protocol]
        sampling = self.sampling or base.sampling
        changes = sampling.differences(base.sampling)
        own: dict[str, Any] = {"num_images": self.num_images, "seed": self.seed}
        own = {name: value for name, value in own.items() if value not in (None, getattr(base, name))}
        said = [f"{name}={value}" for name, value in (changes | own).items()]
        if self.count_prompts:
            own["count_prompts"] = tuple(_prompt_set(item) for item in self.count_prompts)
            said += self.count_prompts
        if not said:
            return base
        return replace(base, name=f"{base.name}, changed: {', '.join(said)}", sampling=sampling, **own)


def default_config(protocol: ProtocolName) -> EvaluateConfig:
    """The defaults of the command line under a protocol: its own sampling settings."""
    return EvaluateConfig(protocol=protocol, sampling=protocols[protocol].sampling)


def labels(targets: Sequence[str]) -> dict[str, str]:
    """A short name for each of several different targets: the last part of its path, or as many parts as distinguish
    all of them."""
    parts = {target: Path(target).parts for target in targets}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {target: "/".join(part[-length:]) for target, part in parts.items()}
        if len(set(short.values())) == len(targets):
            return short
    raise InputError(f"a model is given twice: {', '.join(targets)}")


def _prompt_set(item: str) -> tuple[PromptSet, int]:
    name, _, number = item.partition("=")
    if name not in PROMPT_SETS or not number.isdigit() or int(number) < 1:
        raise InputError(f"--count-prompts {item}: give SET=INT with a set of {', '.join(PROMPT_SETS)}")
    return name, int(number)  # type: ignore[return-value]

"""`ifuvit count`: train an object counter on OpenMoji Scenes, and judge generated pictures by it.

Training takes minutes on two CPU cores and is not resumable: the directory appears when it is whole. Every random draw
depends on (seed, step) alone, so the same command gives the same weights on the same machine.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tyro

from ifuvit.artifacts import atomic_directory, now, read_json, sha256, write_json, write_manifest
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.data.images import center_crop_resize, load_image, to_tensor
from ifuvit.data.scenes import KIND_INDEX, MAX_COUNT, is_held_out_count, is_held_out_relation
from ifuvit.devices import find_device, use_bf16
from ifuvit.errors import InputError

if TYPE_CHECKING:
    import torch

    from ifuvit.metrics.object_count import Detection, ObjectCounter

TRAIN, JUDGE = "count train", "count judge"
DEFAULT_STEPS = 1200
BLUR_PIXELS = 1.0
NOISE = 0.15
"""Of the disturbed validation pictures: standard deviations of the Gaussian blur, in pixels, and of the Gaussian noise,
where black is -1 and white 1."""


@dataclass(frozen=True, kw_only=True)
class CountTrainConfig:
    """Train an object counter on pictures of `ifuvit scenes` and measure its error on the validation pictures."""

    scenes: Path
    """Directory that `ifuvit scenes` wrote."""
    out: Path
    """Directory to write; a counter already there is replaced."""
    steps: int = DEFAULT_STEPS
    """Training steps."""
    batch_size: int = 64
    """Pictures a step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; it is reached after a tenth of the steps and falls to 0 along a cosine."""
    width: int = 64
    """Channels of the network at a quarter of the pictures' resolution."""
    seed: int = 0
    """Seed of the initial weights, the batches and the disturbances."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    autoencoder: str | None = None
    """Measure the error on this autoencoder's reconstructions, too: "openmoji", a run, a folder or a hub id."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"--learning-rate {self.learning_rate}: must be a number above 0")
        if self.width < 8:
            raise InputError(f"--width {self.width}: must be at least 8")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class CountJudgeConfig:
    """Judge by an object counter whether generated pictures show what their prompts ask for."""

    pictures: tyro.conf.Positional[Path]
    """Directory that `ifuvit generate` wrote."""
    counter: Path
    """Directory that `ifuvit count train` wrote."""
    out: Path
    """JSON file to write."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a directory; give the name of a JSON file")


def run(config: CountTrainConfig | CountJudgeConfig) -> Path:
    """Train or judge, and return what was written: the counter's directory, or the JSON file.

    Raises:
        InputError: scenes, pictures or a counter that are missing or broken, or a place that cannot be written.
    """
    return train(config) if isinstance(config, CountTrainConfig) else judge(config)


# ------------------------------------------------------------------------------------------------------------- scenes


class Scenes(NamedTuple):
    """One split of OpenMoji Scenes."""

    files: list[Path]
    objects: list[list[tuple[int, tuple[float, float, float, float]]]]
    """(number of the kind, (x, y, width, height)) of every picture's objects, the relation's subject first."""
    relations: list[str | None]


def read_scenes(directory: Path, split: Literal["train", "val"], *, size: int) -> Scenes:
    """The annotations of one split.

    Raises:
        InputError: missing, broken or empty annotations, or pictures of another size.
    """
    path = directory / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        raise InputError(f"{directory}: holds no scenes ({path} is missing); `ifuvit scenes --out DIR` draws some")
    content = read_json(path)
    try:
        names = {item["id"]: item["name"] for item in content["categories"]}
        if unknown := sorted(set(names.values()) - set(KIND_INDEX)):
            raise InputError(f"{path}: unknown kind {unknown[0]!r}; only OpenMoji Scenes can be counted")
        files, places = [], {}
        for number, image in enumerate(content["images"]):
            if (image["width"], image["height"]) != (size, size):
                raise InputError(
                    f"{path}: {image['file_name']} has {image['width']} x {image['height']} pixels; the counter is made "
                    f"for {size} x {size}, draw scenes with --size {size}"
                )
            files.append(directory / "images" / split / image["file_name"])
            places[image["id"]] = number
        objects: list[list[tuple[int, tuple[float, float, float, float]]]] = [[] for _ in files]
        for item in content["annotations"]:
            x, y, w, h = map(float, item["bbox"])
            objects[places[item["image_id"]]].append((KIND_INDEX[names[item["category_id"]]], (x, y, w, h)))
        relations = [image["relation"] for image in content["images"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the annotations of OpenMoji Scenes ({error!r})") from None
    if not files:
        raise InputError(f"{path}: lists no pictures; `ifuvit scenes` draws them with --train and --val")
    return Scenes(files, objects, relations)


def _load(files: Sequence[Path], size: int) -> np.ndarray:
    """(B, size, size, 3) uint8; pictures of another size are cropped to a square and resized."""
    pictures = np.empty((len(files), size, size, 3), np.uint8)
    for number, file in enumerate(files):
        image = load_image(file)
        pictures[number] = np.asarray(image if image.size == (size, size) else center_crop_resize(image, size))
    return pictures


def _blur(images: "torch.Tensor", sigma: float) -> "torch.Tensor":
    """Gaussian blur of (B, 3, H, W), the border repeated."""
    import torch
    from torch.nn import functional

    radius = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).tolist()
    # Sums of shifted pictures: several times faster on CPUs than convolutions of one channel.
    height, width = images.shape[-2:]
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[..., :width])
    for shift, weight in enumerate(weights):
        rows.add_(padded[..., shift : shift + width], alpha=weight)
    blurred = torch.zeros_like(images)
    for shift, weight in enumerate(weights):
        blurred.add_(rows[..., shift : shift + height, :], alpha=weight)
    return blurred


def disturb(images: "torch.Tensor", rng: np.random.Generator) -> "torch.Tensor":
    """What generated pictures may differ by from drawn ones, at random strengths picture by picture: blur (a mixture of
    the picture and its blurred self; half of the pictures), noise (half of the pictures, up to 0.2 of the range -1 to
    1), and changes of each color's contrast (up to 10 %) and brightness (up to 0.08).

    Args:
        images: (B, 3, H, W) in [-1, 1].
        rng: all draws come from it.
    """
    import torch

    count = len(images)

    def per_picture(*shape: int, low: float, high: float, chance: float = 1.0) -> "torch.Tensor":
        values = rng.uniform(low, high, (count, *shape)) * (rng.random((count, *[1] * len(shape))) < chance)
        return torch.from_numpy(values.astype(np.float32)).to(images.device)

    # One convolution for all pictures; its strength differs by the mixture.
    blurred = _blur(images, float(rng.uniform(0.5, 1.5)))
    images = torch.lerp(images, blurred, per_picture(1, 1, 1, low=0.2, high=1.0, chance=0.5))
    images = images * per_picture(3, 1, 1, low=0.9, high=1.1) + per_picture(3, 1, 1, low=-0.08, high=0.08)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32)).to(images.device)
    return (images + noise * per_picture(1, 1, 1, low=0.0, high=0.2, chance=0.5)).clamp(-1, 1)


# ----------------------------------------------------------------------------------------------------------- training


def train(config: CountTrainConfig) -> Path:
    """Train a counter; see `run`."""
    import torch
    from tqdm import tqdm

    from ifuvit.metrics.object_count import ObjectCounter, ObjectCounterConfig, detection_loss, make_targets

    started = now()
    device = find_device(config.device)
    network = ObjectCounterConfig(width=config.width)
    scenes = read_scenes(config.scenes, "train", size=network.image_size)
    validation = read_scenes(config.scenes, "val", size=network.image_size)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        manifest = config.out / "manifest.json"
        if not manifest.is_file() or read_json(manifest).get("verb") != TRAIN:
            raise InputError(f"--out {config.out}: holds something else already; give a new or empty directory")
    reconstruct, autoencoder = None, None
    if config.autoencoder:
        reconstruct, autoencoder = _reconstruction(config.autoencoder, device)

    # Measured on one Zen 5 core, 64 pictures, forward and backward: 0.15 s in bf16, 0.29 s in fp32, both in
    # channels_last; without it 0.24 s and 0.36 s.
    half = use_bf16(config.precision, device)
    torch.manual_seed(config.seed)
    counter = ObjectCounter(network).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(counter.parameters(), lr=config.learning_rate, weight_decay=0.01)
    began, processor = time.monotonic(), time.process_time()
    losses: list[dict[str, float]] = []
    with tqdm(range(config.steps), unit="step", desc="training", disable=None) as bar:
        for step in bar:
            rate = config.learning_rate * _schedule(step, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([config.seed, step])
            batch = _batch(config.seed, step, config.batch_size, len(scenes.files))
            images = to_tensor(_load([scenes.files[index] for index in batch], network.image_size)).to(device)
            images = disturb(images, rng).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                maps = counter(images)
            terms = detection_loss(maps, make_targets([scenes.objects[index] for index in batch]))
            loss = terms["center"] + terms["kind"] + 0.5 * terms["offset"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(counter.parameters(), 10.0)
            if not torch.isfinite(norm):
                raise InputError(
                    f"the gradient is not finite at step {step + 1}; try a learning rate below {config.learning_rate:g} "
                    "or --precision fp32"
                )
            optimizer.step()
            if step % 50 == 49 or step == config.steps - 1:
                values = {name: value.item() for name, value in terms.items()}
                losses.append({"step": step + 1, **values})
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
    seconds, processor = time.monotonic() - began, time.process_time() - processor

    counter.eval()
    errors = measure(counter, validation, seed=config.seed, reconstruct=reconstruct)
    with atomic_directory(config.out) as directory:
        counter.save_pretrained(directory)
        write_json(directory / "losses.json", losses)
        write_manifest(
            directory,
            TRAIN,
            to_dict(config),
            started=started,
            seed=config.seed,
            data={
                f"instances_{split}": sha256(config.scenes / "annotations" / f"instances_{split}.json")
                for split in ("train", "val")
            },
            parameters=sum(value.numel() for value in counter.parameters()),
            precision="bf16" if half else "fp32",
            threads=torch.get_num_threads(),
            seconds=round(seconds, 1),
            processor_seconds=round(processor, 1),
            disturbances={"blur_pixels": BLUR_PIXELS, "noise": NOISE, "autoencoder": autoencoder},
            errors=errors,
        )
    return config.out


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batch(seed: int, step: int, size: int, count: int) -> list[int]:
    """Numbers of the pictures of a step: every pass over all pictures has an order of its own."""
    numbers: list[int] = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        numbers.append(int(_order(seed, epoch, count)[place]))
    return numbers


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def _reconstruction(
    reference: str, device: "torch.device"
) -> "tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, str]]":
    """Encoding and decoding by an autoencoder, and what tells which one it is."""
    from ifuvit.encoders.autoencoder import Autoencoder

    autoencoder = Autoencoder.from_pretrained(reference, device=device)

    def reconstruct(images: "torch.Tensor") -> "torch.Tensor":
        return autoencoder.decode(autoencoder.moments(images)[:, : autoencoder.channels]).clamp(-1, 1)

    return reconstruct, {"reference": autoencoder.reference, "fingerprint": autoencoder.fingerprint}


def measure(
    counter: "ObjectCounter",
    scenes: Scenes,
    *,
    seed: int = 0,
    reconstruct: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    batch_size: int = 100,
) -> dict[str, Any]:
    """A counter's error on scenes whose contents are known, and on the same pictures disturbed.

    Args:
        counter: in evaluation mode.
        scenes: of `read_scenes`.
        seed: of the noise.
        reconstruct: an autoencoder's encoding and decoding of (B, 3, H, W), if that is to be measured, too.
        batch_size: pictures at a time.

    Returns:
        {"clean", "blurred", "noisy" and, with `reconstruct`, "reconstructed": `scene_scores`}.
    """
    import torch

    from ifuvit.metrics.object_count import scene_scores

    size, kinds = counter.config.image_size, counter.config.kinds
    found: dict[str, list[list[Detection]]] = {}
    for start in range(0, len(scenes.files), batch_size):
        images = to_tensor(_load(scenes.files[start : start + batch_size], size))
        rng = np.random.default_rng([seed, 2, start])
        noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
        variants = {
            "clean": images,
            "blurred": _blur(images, BLUR_PIXELS),
            "noisy": (images + NOISE * noise).clamp(-1, 1),
        }
        if reconstruct is not None:
            variants["reconstructed"] = reconstruct(images)
        for name, variant in variants.items():
            found.setdefault(name, []).extend(counter.detect(variant))
    truth = [[kinds[kind] for kind, _ in objects] for objects in scenes.objects]
    relations = [
        None if relation is None else {"first": names[0], "relation": relation, "second": names[1]}
        for names, relation in zip(truth, scenes.relations)
    ]
    return {name: scene_scores(truth, objects, relations) for name, objects in found.items()}


# ------------------------------------------------------------------------------------------------------------ judging


def judge(config: CountJudgeConfig) -> Path:
    """Judge pictures; see `run`."""
    from ifuvit.metrics.object_count import ObjectCounter

    started = now()
    listed = read_generated(config.pictures)
    counter = ObjectCounter.from_pretrained(config.counter, device=find_device(config.device))
    manifest = read_json(config.counter / "manifest.json")
    if not isinstance(manifest, dict) or "errors" not in manifest:
        raise InputError(f"{config.counter / 'manifest.json'}: tells no errors of the counter; train it again")
    size = counter.config.image_size
    found: list[list[Detection]] = []
    for start in range(0, len(listed), 100):
        files = [config.pictures / name for name, _ in listed[start : start + 100]]
        found += counter.detect(to_tensor(_load(files, size)))
    result = {
        **score(listed, found),
        "counter": {
            "directory": str(config.counter),
            "sha256": sha256(config.counter / "model.safetensors"),
            "errors": manifest["errors"],
        },
        "generated": {
            "directory": str(config.pictures),
            "manifest_sha256": sha256(config.pictures / "manifest.json"),
        },
        "started": started,
        "finished": now(),
    }
    write_json(config.out, result)
    return config.out


def read_generated(directory: Path) -> list[tuple[str, str]]:
    """(file name, prompt) of every picture that `ifuvit generate` wrote.

    Raises:
        InputError: the directory is of another origin.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; give one that `ifuvit generate` wrote")
    manifest = read_json(directory / "manifest.json")
    try:
        if manifest["verb"] != "generate":
            raise InputError(
                f"{directory}: written by `ifuvit {manifest['verb']}`; give a directory of `ifuvit generate`"
            )
        listed = [(str(image["file"]), str(image["prompt"])) for image in manifest["images"]]
    except (KeyError, TypeError):
        raise InputError(f"{directory / 'manifest.json'}: not of `ifuvit generate`; it lists no images") from None
    if not listed:
        raise InputError(f"{directory / 'manifest.json'}: lists no images")
    return listed


def score(listed: Sequence[tuple[str, str]], found: "Sequence[Sequence[Detection]]") -> dict[str, Any]:
    """Scores of pictures by what was found in them; docs/counting.md explains every field.

    Args:
        listed: (file name, prompt) of every picture.
        found: the objects in each.
    """
    from ifuvit.metrics.object_count import Asked, AskedRelation, counts, parse_prompt

    singles, paired, pictures, unread = [], [], [], []
    for (name, prompt), objects in zip(listed, found, strict=True):
        asked = parse_prompt(prompt)
        if asked is None:
            unread.append({"file": name, "prompt": prompt})
            continue
        (singles if isinstance(asked, Asked) else paired).append((asked, objects))
        pictures.append(
            {
                "file": name,
                "prompt": prompt,
                "counted": counts(objects),
                "objects": [[one.kind, round(one.x, 1), round(one.y, 1), round(one.score, 3)] for one in objects],
            }
        )
    assert all(isinstance(asked, AskedRelation) for asked, _ in paired)
    return {
        "pictures": len(listed),
        "judged": len(pictures),
        "counts": _score_counts(singles),
        "relations": _score_relations(paired),
        "not_judged": unread,
        "judgments": pictures,
    }


def _estimate(values: Sequence[float]) -> dict[str, Any]:
    """Mean, and its 95 % bootstrap interval over pictures."""
    from ifuvit.metrics.intervals import bootstrap_interval

    return {"mean": sum(values) / len(values), "interval": bootstrap_interval(values)}


def _score_counts(judged: "Sequence[tuple[Any, Sequence[Detection]]]") -> dict[str, Any] | None:
    if not judged:
        return None
    rows = []
    for (kind, count), objects in judged:
        number = sum(one.kind == kind for one in objects)
        rows.append(
            {
                "kind": kind,
                "count": count,
                "counted": number,
                "right_kind": bool(objects) and number == len(objects),
                "right_count": len(objects) == count,
                "right": number == len(objects) == count,
                "error": abs(number - count),
                "match": number == count,
            }
        )

    def group(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        names = {"error": "average_error", "match": "match_ratio"}
        return {
            "pictures": len(chosen),
            **{
                names.get(name, name): _estimate([float(row[name]) for row in chosen])
                for name in ("right_kind", "right_count", "right", "error", "match")
            },
        }

    def groups(key: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        values = sorted({key(row) for row in rows})
        return {str(value): group([row for row in rows if key(row) == value]) for value in values}

    columns = [*map(str, range(MAX_COUNT + 1)), "more"]
    confusion = {
        str(count): [
            sum(row["count"] == count and min(row["counted"], MAX_COUNT + 1) == column for row in rows)
            for column in range(len(columns))
        ]
        for count in range(1, MAX_COUNT + 1)
    }
    return {
        "overall": group(rows),
        "by_count": groups(lambda row: row["count"]),
        "by_object": groups(lambda row: row["kind"]),
        "by_combination": groups(
            lambda row: "held out" if is_held_out_count(row["kind"], row["count"]) else "in training"
        ),
        "confusion": {"counted": columns, "asked": confusion},
    }


def _score_relations(judged: "Sequence[tuple[Any, Sequence[Detection]]]") -> dict[str, Any] | None:
    if not judged:
        return None
    from ifuvit.metrics.object_count import relation_of

    rows = []
    for (first, relation, second), objects in judged:
        kinds = [one.kind for one in objects]
        right = relation_of(objects, first, relation, second)
        exact = sorted(kinds) == sorted((first, second))
        rows.append(
            {
                "relation": relation,
                "held_out": is_held_out_relation(first, relation, second),
                "both_kinds": first in kinds and second in kinds,
                "exact": exact,
                "placed": right,
                "right": exact and right,
            }
        )

    def group(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        both = [row for row in chosen if row["both_kinds"]]
        return {
            "pictures": len(chosen),
            "both_kinds": _estimate([float(row["both_kinds"]) for row in chosen]),
            "right_objects": _estimate([float(row["exact"]) for row in chosen]),
            "right": _estimate([float(row["right"]) for row in chosen]),
            "placed_if_both_kinds": _estimate([float(row["placed"]) for row in both]) if both else None,
        }

    return {
        "overall": group(rows),
        "by_relation": {
            value: group([row for row in rows if row["relation"] == value])
            for value in sorted({row["relation"] for row in rows})
        },
        "by_combination": {
            name: group(chosen)
            for name, held in (("in training", False), ("held out", True))
            if (chosen := [row for row in rows if row["held_out"] == held])
        },
    }


# -------------------------------------------------------------------------------------------------------------- words


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def errors_table(errors: dict[str, Any]) -> str:
    """A counter's errors as text: in percent of the scenes, exactly right."""
    lines = [f"{'exactly right, %':<16} {'one kind':>9} {'two kinds':>10} {'relation':>9} {'all':>7}   by count 1 to 5"]
    for name, scores in errors.items():
        single, pairs = scores["single"], scores["relations"]
        by_count = " ".join(_percent(one["exact"]) for one in single["by_count"].values())
        values = (single["exact"], pairs["exact"], pairs["relation"])
        columns = " ".join(f"{_percent(value):>{width}}" for value, width in zip(values, (9, 10, 9)))
        lines.append(f"{name:<16} {columns} {_percent(scores['exact']):>7}   {by_count}")
    return "\n".join(lines)


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a judgment as text."""

    def cell(estimate: dict[str, Any] | None, *, scale: float = 100, digits: int = 1) -> str:
        if estimate is None:
            return "-"
        low, high = (scale * bound for bound in estimate["interval"])
        return f"{scale * estimate['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    lines = [f"{result['judged']} of {result['pictures']} pictures judged (mean [95 % interval])"]
    if result["counts"]:
        heads = ("pictures", "right kind, %", "right count, %", "both, %", "average error", "match ratio, %")
        lines.append(f"{'asked':<12} {heads[0]:>8} " + " ".join(f"{head:>20}" for head in heads[1:]))
        groups = {"all": result["counts"]["overall"], **result["counts"]["by_count"]}
        groups |= result["counts"]["by_combination"] if len(result["counts"]["by_combination"]) > 1 else {}
        for name, scores in groups.items():
            cells = [cell(scores[key]) for key in ("right_kind", "right_count", "right")]
            cells += [cell(scores["average_error"], scale=1, digits=2), cell(scores["match_ratio"])]
            lines.append(f"{name:<12} {scores['pictures']:>8} " + " ".join(f"{text:>20}" for text in cells))
    if result["relations"]:
        heads = ("both kinds, %", "right objects, %", "and relation, %", "relation if both, %")
        lines.append(f"{'relation':<12} {'pictures':>8} " + " ".join(f"{head:>20}" for head in heads))
        for name, scores in {"all": result["relations"]["overall"], **result["relations"]["by_relation"]}.items():
            keys = ("both_kinds", "right_objects", "right", "placed_if_both_kinds")
            lines.append(f"{name:<12} {scores['pictures']:>8} " + " ".join(f"{cell(scores[key]):>20}" for key in keys))
    if result["not_judged"]:
        first = result["not_judged"][0]["prompt"]
        lines.append(f"{len(result['not_judged'])} not judged: not a plain prompt of OpenMoji Scenes, as {first!r}")
    lines += ["the counter's own errors:", errors_table(result["counter"]["errors"])]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Entry point of the verb."""
    actions: dict[str, type[CountTrainConfig | CountJudgeConfig]] = {
        "train": CountTrainConfig,
        "judge": CountJudgeConfig,
    }
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print("usage: ifuvit count ACTION [ARGUMENTS]\n\nCount objects in pictures of OpenMoji Scenes' kinds.\n")
        print("actions:")
        print("  train    --scenes DIR --out COUNTER                          train a counter, print its error")
        print("  judge    PICTURES --counter COUNTER --out RESULT.json        judge what `ifuvit generate` wrote")
        print("\n`ifuvit count ACTION --help` tells an action's arguments.")
        return
    if action not in actions:
        raise InputError(f"unknown action {action!r}; the actions are {', '.join(actions)}")
    config = parse(actions[action], rest, prog=f"ifuvit count {action}")
    written = run(config)
    if isinstance(config, CountTrainConfig):
        manifest = read_json(written / "manifest.json")
        print(errors_table(manifest["errors"]))
        print(f"{written}: {manifest['parameters']:,} parameters, trained in {manifest['seconds']:.0f} s")
    else:
        print(result_table(read_json(written)))
        print(f"{written}: {read_json(written)['judged']} pictures judged")

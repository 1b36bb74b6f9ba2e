"""Counting the objects in pictures of OpenMoji Scenes' kinds: a small detector of centers, and the counting scores.

The paper counts the objects of pictures drawn from prompts like "three sheep" by eye (section on counting, Eqs. 9 and
10). Here a network of about a million weights does it for the kinds of `ifuvit.data.scenes`. Its own error is known,
since scenes tell what is in them; `ifuvit count train` measures it and every judgment carries it along.

The detector is of the kind of CenterNet (Zhou et al. 2019, "Objects as Points"): a map of 4 x 4 pixel cells that says
where a center is, which kind it would be, and where in the cell it lies; local maxima are the objects.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ifuvit.artifacts import atomic_path, read_json, write_json
from ifuvit.config import from_dict, to_dict
from ifuvit.data.scenes import KINDS, MAX_COUNT, RELATIONS, Relation, prompt_for, relation_prompt_for
from ifuvit.errors import InputError
from ifuvit.model.uvit import load_weights

CELL = 4
"""Pixels a cell of the maps is wide and high."""
MIN_DISTANCE = 6.0
"""Of two centers closer than this (in pixels) only the surer one counts: the boxes of a 64 x 64 scene are disjoint and at
least 8 pixels wide, so that true centers are at least 9 apart."""
_SPREAD = 0.6
_POSITIVE = 0.75

# ------------------------------------------------------------------------------------------------------ what was asked


class Asked(NamedTuple):
    """Copies of one kind, as in "three sheep"."""

    kind: str
    count: int


class AskedRelation(NamedTuple):
    """One object of each of two kinds, as in "a bus left of an apple"."""

    first: str
    relation: Relation
    second: str


@functools.cache
def _grammar() -> dict[str, Asked | AskedRelation]:
    names = [kind.name for kind in KINDS]
    grammar: dict[str, Asked | AskedRelation] = {
        prompt_for(name, count): Asked(name, count) for name in names for count in range(1, MAX_COUNT + 1)
    }
    for first in names:
        for relation in RELATIONS:
            for second in names:
                if first != second:
                    grammar[relation_prompt_for(first, relation, second)] = AskedRelation(first, relation, second)
    return grammar


def parse_prompt(prompt: str) -> Asked | AskedRelation | None:
    """What a plain prompt of OpenMoji Scenes asks for (`prompt_for`, `relation_prompt_for`); None for any other text.
    Case and spaces do not matter."""
    return _grammar().get(" ".join(prompt.lower().split()))


def relation_holds(relation: Relation, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether a center (x, y) stands in `relation` to another: in the right direction, and farther along the relation's
    axis than across it (scenes keep to half as far across). y grows downward."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    if relation in ("left of", "right of"):
        return abs(dx) >= abs(dy) and (dx > 0) == (relation == "left of") and dx != 0
    return abs(dy) >= abs(dx) and (dy > 0) == (relation == "above") and dy != 0


# ------------------------------------------------------------------------------------------------------------- scores


def count_metrics(asked: Sequence[tuple[str, int]], counted: Sequence[int]) -> dict[str, Any]:
    """The paper's counting scores.

    Args:
        asked: (kind, count) of every picture's prompt.
        counted: how many objects of the asked kind each picture shows.

    Returns:
        {"overall": scores, "by_count": {"1": scores, ...}, "by_object": {kind: scores, ...}} of what was asked, where
        scores are {"pictures", "average_error": mean |counted - asked| (Eq. 9), "match_ratio": share with counted equal
        to asked (Eq. 10)}; both None where there are no pictures.

    Raises:
        InputError: the two differ in length.
    """
    if len(asked) != len(counted):
        raise InputError(f"{len(asked)} pictures asked for, {len(counted)} counted; give as many of both")
    errors = [abs(int(number) - count) for (_, count), number in zip(asked, counted)]

    def scores(places: Sequence[int]) -> dict[str, Any]:
        chosen = [errors[place] for place in places]
        if not chosen:
            return {"pictures": 0, "average_error": None, "match_ratio": None}
        return {
            "pictures": len(chosen),
            "average_error": sum(chosen) / len(chosen),
            "match_ratio": chosen.count(0) / len(chosen),
        }

    return {
        "overall": scores(range(len(asked))),
        "by_count": {
            str(value): scores([place for place, (_, count) in enumerate(asked) if count == value])
            for value in sorted({count for _, count in asked})
        },
        "by_object": {
            value: scores([place for place, (kind, _) in enumerate(asked) if kind == value])
            for value in sorted({kind for kind, _ in asked})
        },
    }


# ----------------------------------------------------------------------------------------------------------- detector


class Detection(NamedTuple):
    """One object found."""

    kind: str
    x: float
    """Of its center, in pixels from the left."""
    y: float
    """Of its center, in pixels from the top."""
    score: float
    """How sure the network is that an object's center is there, 0 to 1."""


class Maps(NamedTuple):
    """What the network gives, per cell (h = H / 4, w = W / 4)."""

    center: torch.Tensor
    """(B, h, w) logits of being a center."""
    offset: torch.Tensor
    """(B, 2, h, w) x and y of the nearest center from the middle of the cell, in cells."""
    kind: torch.Tensor
    """(B, kinds, h, w) logits of the kind."""


@dataclass(frozen=True, kw_only=True)
class ObjectCounterConfig:
    """The network of an object counter."""

    kinds: tuple[str, ...] = tuple(kind.name for kind in KINDS)
    """Names of the kinds, in the order of the logits."""
    image_size: int = 64
    """Side of the square pictures it is made for, pixels; larger and smaller ones have to be resized to it."""
    width: int = 64
    """Channels of the maps; twice as many at half their resolution."""
    threshold: float = 0.5
    """Score from which on a local maximum counts as an object."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise InputError(f"kinds {self.kinds}: give at least one, each once")
        if self.image_size < 8 * CELL or self.image_size % (2 * CELL):
            raise InputError(f"image_size {self.image_size}: must be a multiple of {2 * CELL}, at least {8 * CELL}")
        if self.width < 8:
            raise InputError(f"width {self.width}: must be at least 8")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold}: must be between 0 and 1")


def _norm_conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _norm_conv(width, width)
        self.second = _norm_conv(width, width)
        # Starts as the identity.
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class ObjectCounter(nn.Module):
    """Finds the objects of known kinds in small pictures."""

    def __init__(self, config: ObjectCounterConfig | None = None) -> None:
        super().__init__()
        self.config = config or ObjectCounterConfig()
        width = self.config.width
        self.stem = nn.Sequential(
            # 2 x 2 pixels become 12 channels: convolutions of 3 channels are slow on CPUs.
            nn.PixelUnshuffle(2),
            _norm_conv(12, width // 2),
            nn.ReLU(),
            _norm_conv(width // 2, width, stride=2),
            nn.ReLU(),
        )
        self.fine = nn.Sequential(_Residual(width), _Residual(width))
        self.coarse = nn.Sequential(
            _norm_conv(width, 2 * width, stride=2), nn.ReLU(), _Residual(2 * width), _Residual(2 * width)
        )
        self.lateral = nn.Conv2d(2 * width, width, 1)
        self.merged = _Residual(width)
        self.head = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, 3 + len(self.config.kinds), 1)
        )
        with torch.no_grad():
            # One cell in a hundred is a center: begin with that, or the background drowns everything at first.
            self.head[-1].bias[0] = -4.6  # type: ignore[index]

    def forward(self, images: torch.Tensor) -> Maps:
        """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of 8, to maps of cells of 4 x 4 pixels."""
        fine = self.fine(self.stem(images))
        coarse = self.lateral(self.coarse(fine))
        merged = self.merged(fine + functional.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        out = self.head(merged).float()
        return Maps(out[:, 0], out[:, 1:3], out[:, 3:])

    @torch.no_grad()
    def detect(self, images: torch.Tensor, *, threshold: float | None = None) -> list[list[Detection]]:
        """Find the objects.

        Args:
            images: (B, 3, S, S) in [-1, 1], S = `config.image_size`.
            threshold: least score; `config.threshold` by default.

        Returns:
            For every picture its objects, the surest first. Where a center is does not depend on the kind, so one
            object is never counted as two kinds.

        Raises:
            InputError: pictures of another shape.
        """
        size = self.config.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, {size}, {size})")
        training = self.training
        self.eval()
        maps = self(images.to(self.head[-1].weight.device, torch.float32))  # type: ignore[union-attr, arg-type]
        self.train(training)
        score = maps.center.sigmoid()
        highest = functional.max_pool2d(score[:, None], 3, 1, 1)[:, 0]
        peaks = (score == highest) & (score >= (self.config.threshold if threshold is None else threshold))
        found: list[list[Detection]] = [[] for _ in range(len(images))]
        where = peaks.nonzero()
        kinds = maps.kind.argmax(1)[peaks].tolist()
        offsets = maps.offset.permute(0, 2, 3, 1)[peaks].tolist()
        for (image, row, column), value, kind, (dx, dy) in zip(where.tolist(), score[peaks].tolist(), kinds, offsets):
            x, y = CELL * (column + 0.5 + dx), CELL * (row + 0.5 + dy)
            found[image].append(Detection(self.config.kinds[kind], x, y, value))
        return [_without_neighbors(objects) for objects in found]

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors."""
        from safetensors.torch import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "config.json", to_dict(self.config))
        with atomic_path(directory / "model.safetensors") as path:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, path)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> "ObjectCounter":
        """Load a counter that `save_pretrained` or `ifuvit count train` wrote, in evaluation mode.

        Raises:
            InputError: nothing there, or a damaged or unfitting file.
        """
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise InputError(f"{directory}: holds no object counter (no config.json); `ifuvit count train` makes one")
        values = read_json(directory / "config.json")
        if not isinstance(values, dict):
            raise InputError(f"{directory / 'config.json'}: not an object counter's configuration")
        counter = cls(from_dict(ObjectCounterConfig, values, where=str(directory / "config.json")))
        load_weights(counter, directory / "model.safetensors")
        return counter.to(device).eval()


def _without_neighbors(objects: list[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for one in sorted(objects, key=lambda one: -one.score):
        if all((one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= MIN_DISTANCE**2 for other in kept):
            kept.append(one)
    return kept


def counts(objects: Sequence[Detection]) -> dict[str, int]:
    """Objects by kind, the most frequent kind first."""
    numbers: dict[str, int] = {}
    for one in objects:
        numbers[one.kind] = numbers.get(one.kind, 0) + 1
    return dict(sorted(numbers.items(), key=lambda item: (-item[1], item[0])))


# ----------------------------------------------------------------------------------------------------------- training


class Targets(NamedTuple):
    """Objects of B pictures, padded to N a picture."""

    centers: torch.Tensor
    """(B, N, 2) x and y in pixels; far outside where there is no object."""
    kinds: torch.Tensor
    """(B, N) numbers of the kinds, int64."""


def make_targets(objects: Sequence[Sequence[tuple[int, tuple[float, float, float, float]]]]) -> Targets:
    """(number of the kind, (x, y, width, height) in pixels) of every object of every picture as arrays."""
    longest = max([1, *(len(one) for one in objects)])
    centers = np.full((len(objects), longest, 2), -1e3, np.float32)
    kinds = np.zeros((len(objects), longest), np.int64)
    for row, one in enumerate(objects):
        for column, (kind, (x, y, w, h)) in enumerate(one):
            centers[row, column] = x + w / 2, y + h / 2
            kinds[row, column] = kind
    return Targets(torch.from_numpy(centers), torch.from_numpy(kinds))


def detection_loss(maps: Maps, targets: Targets) -> dict[str, torch.Tensor]:
    """The terms of the loss, each a mean over the objects.

    "center" is CenterNet's penalty-reduced focal loss, except that every cell whose middle is within 0.75 cells of a
    center is one: a center near the border of two cells then makes both sure, rather than neither. "kind" is the cross
    entropy, "offset" the absolute error in cells, both around the centers, weighted by a Gaussian of 0.6 cells.
    """
    batch, height, width = maps.center.shape
    device = maps.center.device
    centers = targets.centers.to(device) / CELL
    columns = torch.arange(width, device=device) + 0.5
    rows = torch.arange(height, device=device) + 0.5
    dx = centers[..., 0, None, None] - columns  # (B, N, 1, w)
    dy = centers[..., 1, None, None] - rows[:, None]  # (B, N, h, 1)
    square, nearest = (dx.square() + dy.square()).min(dim=1)  # (B, h, w)
    closeness = (-square / (2 * _SPREAD**2)).exp()
    positive = square <= _POSITIVE**2
    objects = (targets.centers[..., 0] > -100).sum().clamp(min=1).to(device)

    log_yes, log_no = functional.logsigmoid(maps.center), functional.logsigmoid(-maps.center)
    yes = maps.center.sigmoid()
    focal = torch.where(positive, (1 - yes) ** 2 * log_yes, (1 - closeness) ** 4 * yes**2 * log_no)

    weight = torch.where(square <= 2.25, closeness, 0.0)
    flat = nearest.flatten(1)
    kinds = targets.kinds.to(device).gather(1, flat).view(batch, height, width)
    entropy = functional.cross_entropy(maps.kind, kinds, reduction="none")
    offset = torch.stack(
        [
            dx.expand(-1, -1, height, -1).flatten(2).gather(1, flat[:, None]).view(batch, height, width),
            dy.expand(-1, -1, -1, width).flatten(2).gather(1, flat[:, None]).view(batch, height, width),
        ],
        dim=1,
    )
    distance = (maps.offset - offset).abs().sum(1)
    total = weight.sum().clamp(min=1)
    return {
        "center": -focal.sum() / objects,
        "kind": (weight * entropy).sum() / total,
        "offset": (weight * distance).sum() / total,
    }


def scene_scores(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[Detection]], relations: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """How often a counter is right about scenes whose contents are known.

    Args:
        truth: kinds of every scene's objects.
        found: what the counter found in each.
        relations: for a scene of two kinds {"first", "relation", "second"}, else None.

    Returns:
        {"pictures", "exact": share with exactly the right objects, "single": {the same for copies of one kind, with
        "by_count" and the counting scores}, "relations": {the same for two kinds; "relation": share with exactly the
        right objects in the right relation}}.
    """
    exact = [sorted(kinds) == sorted(one.kind for one in objects) for kinds, objects in zip(truth, found)]
    alone = [place for place, relation in enumerate(relations) if relation is None]
    paired = [place for place, relation in enumerate(relations) if relation is not None]
    asked = [(truth[place][0], len(truth[place])) for place in alone]
    counted = [counts(found[place]).get(truth[place][0], 0) for place in alone]
    metrics = count_metrics(asked, counted)
    by_count = {
        number: {**scores, "exact": share([exact[p] for p, (_, count) in zip(alone, asked) if str(count) == number])}
        for number, scores in metrics["by_count"].items()
    }
    right = []
    for place in paired:
        relation = relations[place]
        assert relation is not None
        right.append(exact[place] and relation_of(found[place], **relation))
    return {
        "pictures": len(exact),
        "exact": share(exact),
        "single": {**metrics["overall"], "exact": share([exact[place] for place in alone]), "by_count": by_count},
        "relations": {
            "pictures": len(paired),
            "exact": share([exact[place] for place in paired]),
            "relation": share(right),
        },
    }


def relation_of(objects: Sequence[Detection], first: str, relation: Relation, second: str) -> bool:
    """Whether the surest object of kind `first` stands in `relation` to the surest one of kind `second`."""
    places = [next(((one.x, one.y) for one in objects if one.kind == kind), None) for kind in (first, second)]
    return places[0] is not None and places[1] is not None and relation_holds(relation, places[0], places[1])


def share(values: Sequence[bool]) -> float | None:
    """Share of true ones; None where there are none at all."""
    return sum(values) / len(values) if values else None

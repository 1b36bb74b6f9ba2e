"""Frozen dataclasses to JSON and back, strictly."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.config import Finite, Fraction, NonNegative, Positive, Range, check, from_dict, to_dict
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"steps={self.steps}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Outer:
    data: Path
    kind: Literal["a", "b"] = "a"
    place: int | tuple[int, int] = 1
    betas: tuple[float, float] = (0.9, 0.9)
    names: tuple[str, ...] = ()
    limit: float | None = None
    out: Path | None = None
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    anything: Any = None


FULL = Outer(
    data=Path("some/where"),
    kind="b",
    place=(1, 2),
    betas=(0.5, 1.0),
    names=("x", "y"),
    limit=2.5,
    out=Path("there"),
    flag=True,
    inner=Inner(rate=1e-5, steps=0),
    anything={"k": [1, "two"]},
)


@pytest.mark.parametrize("config", [Outer(data=Path("d")), FULL, Outer(data=Path("d"), place=(0, 3))])
def test_round_trip_through_json(config: Outer) -> None:
    text = json.dumps(to_dict(config))
    again = from_dict(Outer, json.loads(text))
    assert again == config
    assert type(again.place) is type(config.place) and type(again.data) is type(config.data)


@pytest.mark.parametrize("name", sorted(presets))
def test_presets_round_trip(name: str) -> None:
    assert from_dict(IFUViTConfig, json.loads(json.dumps(to_dict(presets[name])))) == presets[name]


def test_defaults_fill_in() -> None:
    assert from_dict(Outer, {"data": "d"}) == Outer(data=Path("d"))
    assert from_dict(Outer, {"data": "d", "inner": {"steps": 9}}).inner == Inner(steps=9)


def test_a_whole_number_is_a_float_and_not_the_other_way_round() -> None:
    limit = from_dict(Outer, {"data": "d", "limit": 2}).limit
    assert limit == 2.0 and type(limit) is float
    with pytest.raises(InputError, match="steps: 2.0 does not fit int"):
        from_dict(Inner, {"steps": 2.0})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"colour": 1}, "unknown field 'colour'"),
        ({"kind": "c"}, "kind: 'c'"),
        ({"place": [1, 2, 3]}, "place: [1, 2, 3]"),
        ({"place": "1"}, "place: '1'"),
        ({"place": True}, "place: True"),
        ({"betas": 0.9}, "betas: 0.9"),
        ({"betas": [0.9, "x"]}, "betas: 'x'"),
        ({"names": "xy"}, "names: 'xy'"),
        ({"limit": "3"}, "limit: '3'"),
        ({"limit": True}, "limit: True"),
        ({"data": None}, "data: None"),
        ({"flag": 1}, "flag: 1"),
        ({"inner": {"rat": 1}}, "inner: unknown field 'rat'"),
        ({"inner": {"steps": None}}, "inner: steps: None"),
        ({"inner": {"steps": -1}}, "inner: steps=-1"),
        ({"inner": 5}, "inner: 5"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change: dict[str, Any], shown: str) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(Outer, {"data": "d", **change}, where="run/config.json")
    message = str(caught.value)
    assert message.startswith("run/config.json: ") and shown in message and "\n" not in message


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match="manifest: field 'data' is missing"):
        from_dict(Outer, {}, where="manifest")


@pytest.mark.parametrize("values", [[], ["data"], 3, None, "data"])
def test_something_else_than_an_object(values: Any) -> None:
    with pytest.raises(InputError, match="config.json: holds "):
        from_dict(Outer, values, where="config.json")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Ranges in all the places where they may stand."""

    batch_size: Positive[int] = 1
    rate: Positive[float] = 0.5
    seed: NonNegative[int] = 0
    decay: NonNegative[float] = 0.0
    share: Fraction = 0.5
    scale: Finite = -1.0
    minutes: Positive[float] | None = None
    sizes: tuple[Positive[int], ...] = ()
    pair: tuple[NonNegative[float], Fraction] = (0.0, 0.0)
    ema: Annotated[Annotated[float, Range(least=0, below=1)] | None, "more"] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Unchecked:
    steps: Positive[int] = 1


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"rate": 0.0}, "--rate 0.0: must be above 0"),
        ({"rate": INF}, "--rate inf: must be above 0"),
        ({"rate": NAN}, "--rate nan: must be above 0"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"decay": INF}, "--decay inf: must be at least 0"),
        ({"decay": -0.5}, "--decay -0.5: must be at least 0"),
        ({"share": 1.5}, "--share 1.5: must be from 0 to 1"),
        ({"share": NAN}, "--share nan: must be from 0 to 1"),
        ({"scale": -INF}, "--scale -inf: must be a finite number"),
        ({"minutes": 0.0}, "--minutes 0.0: must be above 0"),
        ({"sizes": (1, 0)}, "--sizes 0: must be at least 1"),
        ({"pair": (0.0, 2.0)}, "--pair 2.0: must be from 0 to 1"),
        ({"ema": 1.0}, "--ema 1.0: must be at least 0 and below 1"),
    ],
    ids=str,
)
def test_numbers_outside_their_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Numbers(**change)
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        from_dict(Numbers, change, where="config.json")
    assert str(caught.value) == f"config.json: {message}"


def test_numbers_at_the_ends_of_their_range() -> None:
    edge = Numbers(share=1.0, minutes=1e-9, sizes=(1, 2**40), pair=(0.0, 1.0), ema=0.0, scale=-1e300)
    assert from_dict(Numbers, json.loads(json.dumps(to_dict(edge)))) == edge


def test_reading_checks_ranges_whether_the_class_does_or_not() -> None:
    with pytest.raises(InputError, match="config.json: --steps 0: must be at least 1"):
        from_dict(Unchecked, {"steps": 0}, where="config.json")

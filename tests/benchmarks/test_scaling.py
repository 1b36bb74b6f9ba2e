"""Settings with one size changed, and exponents of times that are known."""

from dataclasses import replace

import numpy as np
import pytest

from ifuvit.benchmarks.scaling import Axis, changed, own, points, series
from ifuvit.benchmarks.timing import BenchmarkCase, Timing
from ifuvit.model.flops import forward_flops
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.errors import InputError

EARLY, MIDDLE = presets["concat-early"], presets["cross-intermediate"]


def test_one_size_is_changed() -> None:
    sizes: dict[Axis, int] = {"image-tokens": 1024, "text-tokens": 16, "depth": 20}
    for axis, value in sizes.items():
        for config in (EARLY, MIDDLE):
            other = changed(config, axis, value)
            assert own(other, axis) == value and changed(other, axis, own(config, axis)) in (config, _as_pair(config))
            assert all(own(other, kept) == own(config, kept) for kept in sizes if kept != axis)


def _as_pair(config: IFUViTConfig) -> IFUViTConfig:
    return replace(config, n_image=config.image_only)


def test_deeper_settings_fuse_as_often() -> None:
    assert changed(MIDDLE, "depth", 16).image_only == presets["cross-intermediate-deep"].image_only
    assert all(changed(MIDDLE, "depth", depth).num_fused == MIDDLE.num_fused for depth in (4, 8, 20))
    assert changed(EARLY, "depth", 20).num_fused == 21
    with pytest.raises(InputError, match="--depth 2: fewer blocks than the 5 fused ones"):
        changed(MIDDLE, "depth", 2)


def test_own_value_is_among_the_points() -> None:
    found = points({"early": EARLY, "small": presets["openmoji-concat-early"]}, "image-tokens", [1024, 64])
    assert [point.value for point in found["early"]] == [64, 256, 1024]
    assert [point.value for point in found["small"]] == [64, 1024]
    flops = [forward_flops(point.model).total for point in found["early"]]
    assert flops == sorted(flops)
    with pytest.raises(InputError, match="--image-tokens 65: not a square"):
        points({"early": EARLY}, "image-tokens", [65])


@pytest.mark.parametrize("power", [0.8, 1.0, 1.3])
def test_exponent(power: float) -> None:
    """Seconds that follow FLOPs to a power, on a machine that slows down from round to round."""
    several = points({"early": EARLY}, "image-tokens", [64, 1024])["early"]
    flops = {point.name: float(forward_flops(point.model).total) for point in several}
    slower = np.linspace(1, 3, 6)
    found = series(
        several,
        256,
        {name: BenchmarkCase(name=name, prepare=lambda: lambda: None, items=1, flops=flops[name]) for name in flops},
        {
            name: Timing(seconds=tuple(1e-9 * slower * flops[name] ** power), steps=1, peak_memory=None)
            for name in flops
        },
    )
    assert found.exponent is not None
    assert found.exponent.value == pytest.approx(power) and found.exponent.n == 6
    assert found.exponent.interval == pytest.approx((power, power))
    for point in found.points:
        assert point.relative_seconds.value == pytest.approx(point.relative_flops**power)
    assert [point.relative_flops for point in found.points].index(1.0) == 1


def test_no_exponent_where_operations_hardly_change() -> None:
    several = points({"middle": MIDDLE}, "text-tokens", [76])["middle"]
    flops = {point.name: float(forward_flops(point.model).total) for point in several}
    cases = {name: BenchmarkCase(name=name, prepare=lambda: lambda: None, items=1, flops=flops[name]) for name in flops}
    timings = {name: Timing(seconds=(1.0, 1.1), steps=1, peak_memory=None) for name in flops}
    found = series(several, 77, cases, timings)
    assert found.exponent is None and found.points[0].relative_seconds.interval is None

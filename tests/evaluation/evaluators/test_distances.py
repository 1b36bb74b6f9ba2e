"""Distances over one network: names, floors, intervals, and statistics in the place of features."""

import numpy as np
import pytest
from tiny_networks import check_widths, cloud

from ifuvit.evaluation.evaluators.distances import distances, split_for_floor
from ifuvit.metrics.distances.frechet import cmmd, frechet_distance, kernel_distance, precision_recall
from ifuvit.metrics.distances.statistics import FeatureStatistics
from ifuvit.results import Metric, by_name
from ifuvit.utils.errors import InputError


class Network:
    """What `distances` asks of a feature network."""

    def __init__(self, name="EffNetLite0", distance="FD-EffNetLite0", suffix="-EffNetLite0", width=16):
        self.name, self.distance, self.suffix, self.width = name, distance, suffix, width

    def facts(self):
        return {"name": self.name, "fingerprint": "f" * 64, "resize": "none"}


def between(x, y):
    return frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


def measured(*arguments, **options) -> dict[str, Metric]:
    return by_name(distances(*arguments, **options))


@pytest.mark.parametrize("counts", [(20, 90), (90, 20), (90, 120), (41, 40)])
def test_frechet_from_features_is_that_from_covariances(counts):
    x, y = cloud(counts[0], 40), cloud(counts[1], 40, seed=1, shift=0.2)
    found = measured(x, y, Network())["FD-EffNetLite0"].value
    assert found == pytest.approx(between(x.astype(np.float64), y.astype(np.float64)), rel=1e-9)
    other = measured(x, FeatureStatistics.of(y), Network(width=40))["FD-EffNetLite0"].value
    assert other == pytest.approx(found, rel=1e-9)


def test_all_distances_with_floors():
    generated, real, others = cloud(60, shift=0.3), cloud(80, seed=1), cloud(60, seed=2)
    found = measured(generated, real, Network(), other_real=others)
    assert list(found) == ["KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0"]
    for estimate in found.values():
        low, high = estimate.interval
        assert low < estimate.value < high
        assert estimate.interval_from and estimate.n in (60, 80)
    frechet_floor = found["FD-EffNetLite0"].reference
    assert frechet_floor.value == pytest.approx(between(others.astype(np.float64), real.astype(np.float64)))
    assert frechet_floor.n == 60 and frechet_floor.how == "60 real images against 80 other real images"
    assert found["KID-EffNetLite0"].reference.value == pytest.approx(kernel_distance(others, real).value)
    assert found["FD-EffNetLite0"].value > frechet_floor.value
    precision, recall = precision_recall(real, others)
    assert found["precision-EffNetLite0"].reference.value == precision
    assert found["recall-EffNetLite0"].reference.value == recall
    precision, recall = precision_recall(real, generated)
    assert precision != recall
    assert (found["precision-EffNetLite0"].value, found["recall-EffNetLite0"].value) == (precision, recall)
    assert [metric.better for metric in found.values()] == ["lower", "lower", "higher", "higher"]
    assert found == measured(generated, real, Network(), other_real=others)


def test_a_floor_of_decoded_images():
    """The same real images after an autoencoder, against the same reference, next to what they get themselves."""
    generated, real, others = cloud(60, shift=0.3), cloud(80, seed=1), cloud(60, seed=2)
    decoded = others + 0.2
    plain = measured(generated, real, Network(), other_real=others)
    found = measured(generated, real, Network(), other_real=others, decoded=decoded)
    as_generated = measured(decoded, real, Network(), other_real=others)
    for name, metric in found.items():
        assert metric.decoded_reference is not None and metric.reference == plain[name].reference
        assert metric.decoded_reference.value == pytest.approx(as_generated[name].value, rel=1e-9)
        assert plain[name].decoded_reference is None and metric.value == plain[name].value
    assert found["KID-EffNetLite0"].decoded_reference.how == (
        "60 real images, encoded and decoded by the model's autoencoder, against 80 other real images"
    )
    alone = measured(generated, real, Network(), decoded=real[split_for_floor(60, 80)[0]])
    assert alone["FD-EffNetLite0"].decoded_reference.value == pytest.approx(alone["FD-EffNetLite0"].reference.value)


def test_floor_without_other_images():
    generated, real = cloud(60), cloud(80, seed=1)
    floor = measured(generated, real, Network())["FD-EffNetLite0"].reference
    assert floor.n == 40 and floor.how == "40 real images against 40 other real images"


def test_names_over_inception_and_clip():
    generated, real = cloud(20), cloud(20, seed=1)
    assert list(measured(generated, real, Network("Inception", "FID", ""))) == ["KID", "FID", "precision", "recall"]
    found = measured(generated, real, Network("CLIP-ViT-L-14-336", "CMMD", "-CMMD"))
    assert list(found) == ["CMMD"]
    assert found["CMMD"].value == pytest.approx(cmmd(generated, real)) and found["CMMD"].reference.n == 10


def test_statistics_alone_give_the_frechet_distance(tmp_path):
    generated, real, others = cloud(20), cloud(30, seed=1), cloud(20, seed=2)
    statistics = FeatureStatistics.of(real)
    found = measured(generated, statistics, Network(), other_real=others)
    assert list(found) == ["FD-EffNetLite0"]
    assert found["FD-EffNetLite0"].reference.value == pytest.approx(between(others, real), rel=1e-5)
    assert measured(generated, statistics, Network())["FD-EffNetLite0"].reference is None
    with pytest.raises(InputError, match="CMMD requires features"):
        measured(generated, statistics, Network("CLIP", "CMMD", "-CMMD"))
    # With the features in the file, all.
    statistics.save(tmp_path / "a.npz", facts={"network": Network().facts()}, features=real)
    loaded = FeatureStatistics.load(tmp_path / "a.npz")
    assert measured(generated, loaded, Network()) == measured(generated, real, Network())
    with pytest.raises(InputError, match="name 'EffNetLite0', .* with 'Inception'.* --write-statistics"):
        measured(generated, loaded, Network("Inception", "FID", ""))


def test_distances_refuse():
    with pytest.raises(InputError, match="16 dimensions and of 8"):
        measured(cloud(20), cloud(20, 8), Network())
    with pytest.raises(InputError, match="statistics have 8 dimensions, the features of EffNetLite0 16"):
        measured(cloud(20), FeatureStatistics.of(cloud(20, 8)), Network())
    with pytest.raises(InputError, match="of 5 images: give at least 8"):
        measured(cloud(5), cloud(20), Network())


def test_frechet_intervals_are_as_wide_as_other_images_would_make_them():
    real = FeatureStatistics.of(cloud(400, seed=9999))
    sets = [cloud(80, seed=seed, shift=0.5) for seed in range(60)]
    check_widths([measured(generated, real, Network())["FD-EffNetLite0"] for generated in sets])


def test_precision_is_of_the_generated_images_and_recall_of_the_real_ones():
    """One good image again and again is precise, and covers next to nothing."""
    real = cloud(60)
    found = measured(np.repeat(real[:1], 20, axis=0), real, Network(), other_real=cloud(20, seed=2))
    assert found["precision-EffNetLite0"].value == 1 and found["recall-EffNetLite0"].value < 0.1
    assert found["precision-EffNetLite0"].n == 20 and found["recall-EffNetLite0"].n == 60

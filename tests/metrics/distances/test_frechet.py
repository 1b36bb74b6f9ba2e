import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ifuvit.metrics.distances import frechet
from ifuvit.metrics.distances.frechet import (
    FeatureStatistics,
    cmmd,
    distances,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ifuvit.utils.errors import InputError


class Network:
    """What `distances` asks of a feature network."""

    def __init__(self, name="EffNetLite0", distance="FD-EffNetLite0", suffix="-EffNetLite0", width=16):
        self.name, self.distance, self.suffix, self.width = name, distance, suffix, width

    def facts(self):
        return {"name": self.name, "fingerprint": "f" * 64, "resize": "none"}


def cloud(count, width=16, *, seed=0, shift=0.0, spread=1.0, mixing=0):
    """Correlated normal features; the same `mixing` gives the same distribution."""
    mix = np.random.default_rng(mixing + 1000).standard_normal((width, width)) / math.sqrt(width)
    return (np.random.default_rng(seed).standard_normal((count, width)) @ mix * spread + shift).astype(np.float32)


def between(x, y):
    return frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


# --------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_statistics_do_not_depend_on_batches(batch, shift):
    features = cloud(500, shift=shift)
    streamed = FeatureStatistics(16)
    for start in range(0, 500, batch):
        streamed.update(features[start : start + batch])
    assert streamed.count == 500
    exact = features.astype(np.float64)
    np.testing.assert_allclose(streamed.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-11)


def test_statistics_of_parts_join_to_those_of_the_whole():
    features = cloud(101)
    parts = [FeatureStatistics.of(features[rank::3]) for rank in range(3)]
    whole = FeatureStatistics(16)
    for part in [*parts, FeatureStatistics(16)]:  # a process may have had no images
        whole.merge(part)
    assert whole.count == 101
    np.testing.assert_allclose(whole.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)
    with pytest.raises(InputError, match="16 dimensions and of 8"):
        whole.merge(FeatureStatistics(8))


def test_files(tmp_path):
    features = cloud(50)
    statistics = FeatureStatistics.of(features)
    statistics.save(tmp_path / "a.npz", facts={"network": {"name": "ü"}}, features=features)
    loaded = FeatureStatistics.load(tmp_path / "a.npz")
    assert loaded.count == 50 and loaded.facts == {"network": {"name": "ü"}}
    assert (loaded.features == features).all()
    np.testing.assert_allclose(loaded.mean, statistics.mean, rtol=1e-15)
    np.testing.assert_allclose(loaded.covariance, statistics.covariance, rtol=1e-14)
    # What pytorch-fid reads.
    with np.load(tmp_path / "a.npz") as file:
        assert file["mu"].shape == (16,) and file["sigma"].shape == (16, 16)
    # What pytorch-fid writes.
    np.savez(tmp_path / "b.npz", mu=statistics.mean, sigma=statistics.covariance)
    foreign = FeatureStatistics.load(tmp_path / "b.npz")
    assert foreign.count is None and foreign.facts == {} and foreign.features is None
    assert (foreign.covariance == statistics.covariance).all()


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FeatureStatistics.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match=r"text\.npz: not a \.npz file"):
        FeatureStatistics.load(tmp_path / "text.npz")
    np.savez(tmp_path / "object.npz", mu=np.array([{}], object), sigma=np.eye(1))
    with pytest.raises(InputError, match="not a .npz file"):  # nothing is unpickled
        FeatureStatistics.load(tmp_path / "object.npz")
    np.save(tmp_path / "array.npz.npy", np.eye(2))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InputError, match="not a .npz file"):
        FeatureStatistics.load(tmp_path / "array.npz")
    np.savez(tmp_path / "half.npz", mu=np.zeros(2))
    with pytest.raises(InputError, match="lacks sigma"):
        FeatureStatistics.load(tmp_path / "half.npz")
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(2), sigma=np.eye(3))
    with pytest.raises(InputError, match=r"\(2,\) and sigma \(3, 3\) do not go together"):
        FeatureStatistics.load(tmp_path / "shapes.npz")
    np.savez(tmp_path / "nan.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="not finite"):
        FeatureStatistics.load(tmp_path / "nan.npz")


# ------------------------------------------------------------------------------------------------- Fréchet's distance


def test_frechet_of_commuting_covariances():
    """For diagonal covariances it is the sum of squared differences of the standard deviations."""
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 3, (2, 12))
    shift = rng.standard_normal(12)
    expected = (shift**2).sum() + ((one - other) ** 2).sum()
    assert frechet_distance(shift, np.diag(one**2), np.zeros(12), np.diag(other**2)) == pytest.approx(expected)


def test_frechet_agrees_with_scipy():
    x, y = cloud(300, 40), cloud(200, 40, seed=1, shift=0.2, mixing=1)
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1])
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert between(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = 40

        def forward(self, features):
            return features.double()

    x, y = cloud(300, 40), cloud(200, 40, seed=1, shift=0.2, mixing=1)
    theirs = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(x), real=True)
    theirs.update(torch.from_numpy(y), real=False)
    assert between(x, y) == pytest.approx(float(theirs.compute()), rel=1e-5)


@pytest.mark.parametrize("count", [20, 60])
def test_frechet_of_fewer_images_than_dimensions(count):
    """A rotation into more dimensions changes no distance, though it makes the covariances singular."""
    x, y = cloud(count, 30), cloud(count, 30, seed=1, shift=0.3, mixing=1)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((200, 30)))[0].T
    assert between(x @ turn, y @ turn) == pytest.approx(between(x, y), rel=1e-6)
    assert between(x @ turn, x @ turn) == pytest.approx(0, abs=1e-6)
    # In directions at right angles nothing is shared.
    apart = frechet_distance(np.zeros(4), np.diag([1.0, 2, 0, 0]), np.zeros(4), np.diag([0.0, 0, 3, 4]))
    assert apart == pytest.approx(10)


@pytest.mark.parametrize("counts", [(20, 90), (90, 20), (90, 120), (41, 40)])
def test_frechet_from_features_is_that_from_covariances(counts):
    x, y = cloud(counts[0], 40), cloud(counts[1], 40, seed=1, shift=0.2)
    found = distances(x, y, Network())["FD-EffNetLite0"]["value"]
    assert found == pytest.approx(between(x.astype(np.float64), y.astype(np.float64)), rel=1e-9)
    other = distances(x, FeatureStatistics.of(y), Network(width=40))["FD-EffNetLite0"]["value"]
    assert other == pytest.approx(found, rel=1e-9)


def test_frechet_refuses():
    with pytest.raises(InputError, match="4 dimensions and of 5"):
        frechet_distance(np.zeros(4), np.eye(4), np.zeros(5), np.eye(5))
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(np.full(4, np.nan), np.eye(4), np.zeros(4), np.eye(4))


# --------------------------------------------------------------------------------------------------- kernel distances


def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = cloud(90), cloud(90, seed=1, shift=0.5)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=90)
    theirs.update(torch.from_numpy(y).double(), real=True)
    theirs.update(torch.from_numpy(x).double(), real=False)
    mean, _ = theirs.compute()
    assert kernel_distance(x, y)["value"] == pytest.approx(float(mean), rel=1e-5)


def test_kernel_distance_of_unequal_sides_and_in_blocks(monkeypatch):
    x, y = cloud(30), cloud(50, seed=1, shift=0.5)

    def kernel(a, b):
        return (float(a.astype(np.float64) @ b) / 16 + 1) ** 3

    within = [np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    found = kernel_distance(x, y)
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert found["n"] == 30 and found["interval_from"] == "100 random subsets of 15 against 25 images"
    blocks = frechet._blocks
    monkeypatch.setattr(frechet, "_blocks", lambda length: blocks(length, 7))
    assert kernel_distance(x, y)["value"] == pytest.approx(found["value"], rel=1e-12)
    # Also of a set with itself, where the pairs of a image with itself count between the sides only.
    assert kernel_distance(x, x)["value"] == pytest.approx(
        2 * within[0] - 2 * np.mean([kernel(a, b) for a in x for b in x])
    )


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(cloud(20, seed=seed), cloud(20, seed=seed + 500))["value"] for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)


def test_cmmd():
    x, y = cloud(20), cloud(30, seed=1, shift=0.5)
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x.astype(np.float64), y.astype(np.float64)))

    def mean(first, second):
        return np.mean([math.exp(-((p - q) ** 2).sum() / (2 * 10**2)) for p in first for q in second])

    assert cmmd(x, y) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-8)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


# ----------------------------------------------------------------------------------------------- precision and recall


def test_precision_recall_by_loops(monkeypatch):
    real, generated = cloud(40, 6), cloud(30, 6, seed=1, shift=0.4)

    def share(points, others, k):
        radii = [sorted(np.linalg.norm(o - p) for p in others)[k] for o in others]
        return np.mean([any(np.linalg.norm(p - o) <= r for o, r in zip(others, radii)) for p in points])

    blocks = frechet._blocks
    monkeypatch.setattr(frechet, "_blocks", lambda length: blocks(length, 11))
    for k in (1, 3):
        expected = share(generated, real, k), share(real, generated, k)
        assert precision_recall(real, generated, k=k) == expected
        assert 0 < min(expected) < max(expected) < 1


def test_precision_recall_at_the_ends():
    real = cloud(30)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    few = np.repeat(real[:1], 30, axis=0)  # one and the same image: among the real ones, but covers none of the rest
    precision, recall = precision_recall(real, few)
    assert precision == 1 and recall < 0.1
    with pytest.raises(InputError, match="3 images: .* more than 3"):
        precision_recall(real[:3], real)


# ---------------------------------------------------------------------------------------------------- all of a network


def test_all_distances_with_floors():
    generated, real, others = cloud(60, shift=0.3), cloud(80, seed=1), cloud(60, seed=2)
    found = distances(generated, real, Network(), other_real=others)
    assert list(found) == ["KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0"]
    for estimate in found.values():
        low, high = estimate["interval"]
        assert low < estimate["value"] < high
        assert estimate["interval_from"] and estimate["n"] in (60, 80)
    frechet_floor = found["FD-EffNetLite0"]["floor"]
    assert frechet_floor["value"] == pytest.approx(between(others.astype(np.float64), real.astype(np.float64)))
    assert frechet_floor["n"] == 60 and frechet_floor["how"] == "60 real images against 80 other real images"
    assert found["KID-EffNetLite0"]["floor"]["value"] == pytest.approx(kernel_distance(others, real)["value"])
    assert found["FD-EffNetLite0"]["value"] > frechet_floor["value"]
    precision, recall = precision_recall(real, others)
    assert found["precision-EffNetLite0"]["real"]["value"] == precision
    assert found["recall-EffNetLite0"]["real"]["value"] == recall
    assert found == distances(generated, real, Network(), other_real=others)


def test_floor_without_other_images():
    generated, real = cloud(60), cloud(80, seed=1)
    floor = distances(generated, real, Network())["FD-EffNetLite0"]["floor"]
    assert floor["n"] == 40 and floor["how"] == "40 real images against 40 other real images"


def test_names_over_inception_and_clip():
    generated, real = cloud(20), cloud(20, seed=1)
    assert list(distances(generated, real, Network("Inception", "FID", ""))) == ["KID", "FID", "precision", "recall"]
    found = distances(generated, real, Network("CLIP-ViT-L-14-336", "CMMD", "-CMMD"))
    assert list(found) == ["CMMD"]
    assert found["CMMD"]["value"] == pytest.approx(cmmd(generated, real)) and found["CMMD"]["floor"]["n"] == 10


def test_statistics_alone_give_the_frechet_distance(tmp_path):
    generated, real, others = cloud(20), cloud(30, seed=1), cloud(20, seed=2)
    statistics = FeatureStatistics.of(real)
    found = distances(generated, statistics, Network(), other_real=others)
    assert list(found) == ["FD-EffNetLite0"]
    assert found["FD-EffNetLite0"]["floor"]["value"] == pytest.approx(between(others, real), rel=1e-5)
    assert "floor" not in distances(generated, statistics, Network())["FD-EffNetLite0"]
    with pytest.raises(InputError, match="CMMD needs features"):
        distances(generated, statistics, Network("CLIP", "CMMD", "-CMMD"))
    # With the features in the file, all.
    statistics.save(tmp_path / "a.npz", facts={"network": Network().facts()}, features=real)
    loaded = FeatureStatistics.load(tmp_path / "a.npz")
    assert distances(generated, loaded, Network()) == distances(generated, real, Network())
    with pytest.raises(InputError, match="name 'EffNetLite0', .* with 'Inception'.* reference-stats"):
        distances(generated, loaded, Network("Inception", "FID", ""))


def test_distances_refuse():
    with pytest.raises(InputError, match="16 dimensions and of 8"):
        distances(cloud(20), cloud(20, 8), Network())
    with pytest.raises(InputError, match="statistics have 8 dimensions, the features of EffNetLite0 16"):
        distances(cloud(20), FeatureStatistics.of(cloud(20, 8)), Network())
    with pytest.raises(InputError, match="of 5 images: give at least 8"):
        distances(cloud(5), cloud(20), Network())


def check_widths(found):
    """Of estimates from as many sets of images: the spread of their values, and the width of their intervals."""
    spread = np.std([estimate["value"] for estimate in found])
    widths = np.mean([estimate["interval"][1] - estimate["interval"][0] for estimate in found])
    assert widths / (2 * 1.96) == pytest.approx(spread, rel=0.35)


def test_frechet_intervals_are_as_wide_as_other_images_would_make_them():
    real = FeatureStatistics.of(cloud(400, seed=9999))
    sets = [cloud(80, seed=seed, shift=0.5) for seed in range(60)]
    check_widths([distances(generated, real, Network())["FD-EffNetLite0"] for generated in sets])


def test_kernel_intervals_are_as_wide_as_other_images_would_make_them():
    sets = [(cloud(60, seed=seed, shift=0.5), cloud(120, seed=seed + 500)) for seed in range(60)]
    check_widths([kernel_distance(generated, real) for generated, real in sets])

"""Statistics of features: exact in any batches and parts, and files of several programs."""

import numpy as np
import pytest
from tiny_networks import cloud

from ifuvit.metrics.distances.statistics import FeatureStatistics
from ifuvit.utils.errors import InputError


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


def test_a_damaged_name_of_an_entry_is_seen(tmp_path):
    """In the archive's directory, which is what says that there is an entry: without it n would only seem to be absent."""
    statistics = FeatureStatistics(4)
    statistics.update(np.random.default_rng(0).standard_normal((9, 4)))
    statistics.save(tmp_path / "s.npz")
    content = (tmp_path / "s.npz").read_bytes()
    at = content.rindex(b"n.npy")
    (tmp_path / "s.npz").write_bytes(content[:at] + b"o" + content[at + 1 :])
    with pytest.raises(InputError, match="s.npz: not a .npz file of statistics .*is damaged"):
        FeatureStatistics.load(tmp_path / "s.npz")

"""The public metrics, against scipy and by hand; the package itself imports nothing heavy."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.linalg import sqrtm

import ifuvit.metrics


def test_public_names():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((50, 6)) for _ in range(2))
    (mu1, sigma1), (mu2, sigma2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * sqrtm(sigma1 @ sigma2).real)
    assert ifuvit.metrics.frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-6)
    score = ifuvit.metrics.clip_score([0.2, -0.1])
    assert score.cosine.value == pytest.approx(0.05) and score.clamped == pytest.approx(0.25)
    counts = ifuvit.metrics.count_metrics([("sheep", 3), ("bus", 1)], [3, 2])
    assert counts.overall.match_ratio is not None and counts.overall.match_ratio.value == 0.5
    with pytest.raises(AttributeError, match="no attribute 'beauty'"):
        ifuvit.metrics.beauty  # noqa: B018


def test_importing_the_package_imports_no_library():
    code = "import sys, ifuvit.metrics; print({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

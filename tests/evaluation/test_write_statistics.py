"""Statistics of the reference images: the same numbers as computing features again, and files of pytorch-fid's form."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_networks import free_port, write_images

from ifuvit import results
from ifuvit.commands.evaluate import main
from ifuvit.metrics.distances.feature_networks import extract_features, load_feature_network
from ifuvit.metrics.distances.statistics import FeatureStatistics
from ifuvit.utils.errors import InputError

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nineteen captioned images."""
    folder = tmp_path_factory.mktemp("data") / "images"
    for file in write_images(folder, 19):
        file.with_suffix(".txt").write_text("a bus")
    return folder


def written(data, out, *arguments) -> FeatureStatistics:
    main(["--data", str(data), "--write-statistics", str(out), "--num-images", "10", *CPU, *arguments])
    return FeatureStatistics.load(out)


def test_statistics_of_the_reference_images(data, tmp_path, capsys):
    from ifuvit.evaluation.reference_images import ReferenceImages

    statistics = written(data, tmp_path / "a" / "stats.npz")
    assert capsys.readouterr().out.endswith("stats.npz: written\n")
    network = load_feature_network("effnet-lite0")
    files = [file for file, _ in ReferenceImages.open(data).choose(10)]
    features = extract_features(network, files, size=64)
    assert statistics.count == 10 and statistics.features is None
    np.testing.assert_allclose(statistics.mean, features.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-5)
    assert statistics.facts["network"] == network.facts() and statistics.facts["size"] == 64
    assert statistics.facts["data"]["images"] == 19 and statistics.facts["command"] == "evaluate"
    kept = written(data, tmp_path / "kept.npz", "--keep-features")
    np.testing.assert_array_equal(kept.features, features)
    np.testing.assert_allclose(kept.covariance, statistics.covariance, atol=1e-9)


def test_they_take_the_place_of_features(data, tmp_path):
    """With features all distances, without them the Fréchet distance, are those of the images themselves."""
    generated = tmp_path / "generated"
    write_images(generated, 10, seed=1)

    def distances(*arguments):
        out = tmp_path / "r.json"
        command = [str(generated), "--data", str(data), "--out", str(out), "--metrics", "distances"]
        main([*command, "--num-images", "10", *CPU, *arguments])
        return results.by_name(results.from_file(out, results.Evaluation).metrics)

    images = distances("--write-statistics", str(tmp_path / "both.npz"))  # while it evaluates
    assert FeatureStatistics.load(tmp_path / "both.npz").count == 10
    written(data, tmp_path / "kept.npz", "--keep-features")
    kept = distances("--statistics", str(tmp_path / "kept.npz"))
    alone = distances("--statistics", str(tmp_path / "both.npz"))
    assert kept == images and list(alone) == ["FD-EffNetLite0"]
    assert alone["FD-EffNetLite0"].value == pytest.approx(images["FD-EffNetLite0"].value, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write-statistics", "stats.pt"], "give a name that ends with .npz"),
        (["--write-statistics", "s.npz"], "requires --data"),
        (["--write-statistics", "s.npz", "--data", "none"], "none: no such directory"),
        (["--write-statistics", "s.npz", "--data", "DATA"], "19 usable images, fewer than the 1,000"),
        (["--write-statistics", "s.npz", "--data", "DATA", "--num-images", "1"], "statistics require at least 2"),
        (["--write-statistics", "s.npz", "--data", "DATA", "--protocol", "paper"], "inception: no weights"),
        (["--data", "DATA"], "no TARGET; name a model or a directory of images"),
        (["--out", "r.json"], "give TARGET and --out together"),
    ],
)
def test_mistakes(data, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        main([str(data) if one == "DATA" else one for one in arguments])
    assert message in str(caught.value) and not (tmp_path / "s.npz").exists()


@pytest.mark.multiprocess
def test_two_processes_write_the_statistics_of_one(data, tmp_path):
    one = written(data, tmp_path / "one.npz")
    command = ["--data", data, "--write-statistics", tmp_path / "two.npz", "--num-images", "10", *CPU]
    program = tmp_path / "child.py"
    program.write_text("import sys; from ifuvit.commands.evaluate import main; main(sys.argv[1:])")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2"]
        + [f"--master-port={free_port()}", program, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("two.npz: written") == 1
    two = FeatureStatistics.load(tmp_path / "two.npz")
    assert two.count == one.count == 10
    np.testing.assert_allclose(two.mean, one.mean, atol=1e-4)
    np.testing.assert_allclose(two.covariance, one.covariance, atol=1e-4)

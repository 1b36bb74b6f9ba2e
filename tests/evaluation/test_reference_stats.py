import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_networks import free_port, write_images

from ifuvit.commands import main as cli
from ifuvit.evaluation.reference_stats import ReferenceStatsConfig, run
from ifuvit.metrics.distances.feature_networks import extract_features, load_feature_network
from ifuvit.metrics.distances.frechet import FeatureStatistics, distances


@pytest.fixture(scope="module")
def network():
    return load_feature_network("effnet-lite0")


def test_a_directory_of_images(tmp_path, network):
    files = write_images(tmp_path / "images", 6) + write_images(tmp_path / "images" / "more", 4, seed=1)
    (tmp_path / "images" / "00.txt").write_text("a caption beside its image")
    out = run(ReferenceStatsConfig(images=tmp_path / "images", out=tmp_path / "a" / "stats.npz", device="cpu"))
    statistics = FeatureStatistics.load(out)
    features = extract_features(network, files)
    assert statistics.count == 10 and statistics.features is None
    np.testing.assert_allclose(statistics.mean, features.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-5)
    assert statistics.facts["network"] == network.facts()
    assert statistics.facts["data"]["images"] == 10 and statistics.facts["command"] == "reference-stats"
    assert list(distances(features, statistics, network)) == ["FD-EffNetLite0"]


def test_a_data_set_with_features(tmp_path, network):
    files = write_images(tmp_path / "val2014", 9)
    images = [{"id": number, "file_name": file.name} for number, file in enumerate(files)]
    notes = [{"id": number, "image_id": number, "caption": "a bus"} for number in range(9)]
    (tmp_path / "annotations").mkdir()
    captions = tmp_path / "annotations" / "captions_val2014.json"
    captions.write_text(json.dumps({"images": images, "annotations": notes}))
    out = run(
        ReferenceStatsConfig(data=tmp_path, size=40, keep_features=True, out=tmp_path / "stats.npz", device="cpu")
    )
    statistics = FeatureStatistics.load(out)
    assert statistics.features is not None and statistics.features.shape == (9, 1280)
    assert statistics.facts["size"] == 40 and statistics.facts["data"]["split"] == "val"
    features = extract_features(network, files, size=40)
    assert "KID-EffNetLite0" in distances(features, statistics, network)
    # Part of a directory, as an annotation file lists it.
    captions.write_text(json.dumps({"images": images[:5], "annotations": notes[:5]}))
    config = ReferenceStatsConfig(images=files[0].parent, captions=captions, out=tmp_path / "part.npz", device="cpu")
    assert FeatureStatistics.load(run(config)).count == 5


def test_mistakes(tmp_path, capsys, monkeypatch):
    def fails(*arguments, out="stats.npz"):
        monkeypatch.setattr(
            sys, "argv", ["ifuvit", "reference-stats", *map(str, arguments), "--out", str(tmp_path / out)]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2 and not (tmp_path / out).exists()
        error = capsys.readouterr().err.strip()
        assert "Traceback" not in error
        return error.splitlines()[-1]  # a progress bar may stand above

    images = tmp_path / "images"
    assert "give either --data or --images" in fails()
    assert "--captions goes with --images" in fails("--data", images, "--captions", "x.json")
    assert "no such directory of images" in fails("--images", images)
    images.mkdir()
    assert "holds no images" in fails("--images", images)
    files = write_images(images, 3)
    assert "give a name that ends so" in fails("--images", images, out="stats.pt")
    assert "--size 0: must be at least 1" in fails("--images", images, "--size", 0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "inception: no weights; download https" in fails("--images", images, "--network", "inception")
    (images / "notes.doc").write_text("text")
    assert "notes.doc: not a image" in fails("--images", images)
    (images / "notes.doc").rename(images / "notes.png")
    assert "notes.png: not a readable image" in fails("--images", images, "--device", "cpu")
    for file in [*files[1:], images / "notes.png"]:
        file.unlink()
    assert "1 usable images; statistics need at least 2" in fails("--images", images)


def test_command_line(tmp_path, capsys):
    from ifuvit.commands.reference_stats import main

    write_images(tmp_path / "images", 3)
    main(["--images", str(tmp_path / "images"), "--out", str(tmp_path / "stats.npz"), "--device", "cpu"])
    assert capsys.readouterr().out.endswith("stats.npz: 3 images, 1280 dimensions of EffNetLite0\n")


@pytest.mark.multiprocess
def test_two_processes_write_the_statistics_of_one(tmp_path):
    write_images(tmp_path / "images", 9)
    config = ReferenceStatsConfig(images=tmp_path / "images", out=tmp_path / "one.npz", device="cpu")
    one = FeatureStatistics.load(run(config))
    program = tmp_path / "child.py"
    program.write_text("import sys; from ifuvit.commands.reference_stats import main; main(sys.argv[1:])")
    arguments = ["--images", tmp_path / "images", "--out", tmp_path / "two.npz", "--device", "cpu"]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2"]
        + [f"--master-port={free_port()}", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("two.npz: 9 images") == 1
    two = FeatureStatistics.load(tmp_path / "two.npz")
    assert two.count == one.count == 9
    np.testing.assert_allclose(two.mean, one.mean, atol=1e-4)
    np.testing.assert_allclose(two.covariance, one.covariance, atol=1e-4)

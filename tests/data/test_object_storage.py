"""Data sets in object storage, on a local server that speaks S3: what is read is what the same files give on this machine."""

import io
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fake_encoders import FakeAutoencoder, FakeTextEncoder
from PIL import Image

from ifuvit.data.config import PrepareConfig
from ifuvit.data.library import read_dataset
from ifuvit.data.prepare import encode
from ifuvit.data.sources import DatasetSource
from ifuvit.data.storage import StoredFile
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    if not fs.exists("bucket"):
        fs.mkdir("bucket")
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()


def noise(side: int, seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def archive(path: Path, first: int, number: int, side: int = 16) -> Path:
    with tarfile.open(path, "w") as tar:
        for image in range(first, first + number):
            for name, content in ((f"{image:03d}.png", noise(side, image)), (f"{image:03d}.txt", b"a bus %d" % image)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def facts(images):
    return [(one.id, one.captions, one.source.read()) for one in images]


def test_archives(bucket, tmp_path):
    local = [archive(tmp_path / f"train-{number}.tar", 5 * number, 5) for number in range(3)]
    for file in local:
        bucket.put_file(str(file), f"bucket/{file.name}")
    remote = read_dataset(["s3://bucket/train-*.tar"])
    assert facts(remote) == facts(read_dataset([str(file) for file in local]))
    assert len(remote) == 15 and len(read_dataset(["s3://bucket/train-1.tar"], split="train[1:3]")) == 2


def test_tables(bucket, tmp_path):
    rows = {
        "image": [{"bytes": noise(8, row), "path": None} for row in range(7)],
        "text": [f"bus {row}" for row in range(7)],
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet", batch_size=3)
    bucket.put_file(str(tmp_path / "a.parquet"), "bucket/a.parquet")
    remote = read_dataset(["s3://bucket/a.parquet"])
    assert facts(reversed(remote)) == facts(reversed(read_dataset([str(tmp_path / "a.parquet")])))
    assert [one.captions for one in remote] == [(f"bus {row}",) for row in range(7)]


def test_listing_an_archive_leaves_large_images_where_they_are(bucket, tmp_path, monkeypatch):
    """Headers and captions alone are fetched, and each image by one request for its own bytes."""
    file = archive(tmp_path / "large.tar", 0, 4, side=700)
    bucket.put_file(str(file), "bucket/large.tar")
    fetched = []
    original = s3fs.core.S3File._fetch_range

    def counted(file, start, end):
        fetched.append(end - start)
        return original(file, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    images = read_dataset(["s3://bucket/large.tar"])
    assert 0 < sum(fetched) < file.stat().st_size / 2
    assert images[2].source.read() == noise(700, 2)


def test_prepared_as_from_this_machine(bucket, tmp_path):
    """Two processes, each of which reads its own shards."""
    file = archive(tmp_path / "train.tar", 0, 6)
    bucket.put_file(str(file), "bucket/train.tar")
    outs = []
    for place, ranks in ((str(file), 1), ("s3://bucket/train.tar", 2)):
        source, out = DatasetSource(sources=(place,)), tmp_path / f"out-{ranks}"
        config = PrepareConfig(source=source, out=out, size=12, shard_size=2)
        # Process 0 waits for the shards of the others, which therefore come first here; but it begins the data set.
        with pytest.MonkeyPatch.context() as patch:
            if ranks == 2:
                patch.setattr("ifuvit.data.prepare._all_shards", _raise)
                with pytest.raises(_Stop):
                    encode(config, source.read(), FakeAutoencoder(), FakeTextEncoder(), Processes(0, 2))
                encode(config, source.read(), FakeAutoencoder(), FakeTextEncoder(), Processes(1, 2))
        encode(config, source.read(), FakeAutoencoder(), FakeTextEncoder(), Processes(0, ranks))
        outs.append({path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.npy"))})
    assert outs[0] == outs[1] and len(outs[0]) > 6


class _Stop(Exception):
    pass


def _raise(*arguments):
    raise _Stop


def test_what_cannot_be_reached(bucket, monkeypatch):
    with pytest.raises(InputError, match="s3://bucket/absent.tar: no such file"):
        read_dataset(["s3://bucket/absent.tar"])
    with pytest.raises(InputError, match=r"s3://nowhere/\*.tar: "):
        read_dataset(["s3://nowhere/*.tar"])
    with pytest.raises(InputError, match="nope://x/a.tar: cannot be read .*nope"):
        read_dataset(["nope://x/a.tar"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="s3://bucket/train.tar: cannot be read .*127.0.0.1") as caught:
        StoredFile("s3://bucket/train.tar").read(0, 1)
    assert "\n" not in str(caught.value)

"""What object storage costs `ifuvit prepare dataset`: listing archives and reading their images, next to the same files here.

    python tools/storage_speed.py RESULT.json [IMAGES]

Draws photographs of noise and color (JPEG) into four archives and two parquet files, IMAGES small ones (2,000 unless given; 256
pixels) and a 25th as many of more than 256 KB (768 pixels), and puts them on a local server of S3 (moto, in a process of its own). Every place is read three
times in turn; the medians are compared. The server is written in Python and shares the processor: a real one is faster, its
network slower. What is told is how many bytes travel, and that reading keeps up with the encoders.
"""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ifuvit.data.images import load_image, read_ahead
from ifuvit.data.library import read_dataset
from ifuvit.utils.files import manifest, now, write_json

ROUNDS, ARCHIVES, THREADS = 3, 4, 4


def photograph(side: int, seed: int, quality: int) -> bytes:
    """Color that changes slowly, and noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side))
    pixels = np.asarray(coarse) + generator.normal(0, 12, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def write(directory: Path, number: int, side: int) -> dict[str, str]:
    """Archives and parquet files; their patterns."""
    import datasets

    images = [photograph(side, seed, 95 if side > 256 else 85) for seed in range(number)]
    for archive in range(ARCHIVES):
        with tarfile.open(directory / f"{archive}.tar", "w") as tar:
            for image in range(archive, number, ARCHIVES):
                for name, content in ((f"{image:05d}.jpg", images[image]), (f"{image:05d}.txt", b"a caption")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for part in range(2):
        rows = [{"bytes": image, "path": None} for image in images[part::2]]
        table = datasets.Dataset.from_dict({"image": rows, "text": ["a caption"] * len(rows)}, features=features)
        table.to_parquet(directory / f"{part}.parquet", batch_size=100)
    return {"archives": "*.tar", "parquet": "*.parquet"}


@contextlib.contextmanager
def server() -> Iterator[None]:
    """A server of S3 with an empty bucket; the environment says where it is."""
    code = (
        "from moto.server import ThreadedMotoServer as S; import time; s = S(port=0, verbose=False); s.start(); "
        "print(s.get_host_and_port()[1], flush=True); time.sleep(1e6)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.stdout.readline().strip()}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield
    finally:
        process.kill()


def main() -> None:
    """Entry point."""
    import s3fs

    small = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    sizes = {"small images": (small, 256), "large images": (small // 25, 768)}
    started, load, rows = now(), os.getloadavg()[0], []
    travelled = [0]
    plain, range_of = s3fs.S3FileSystem._cat_file, s3fs.core.S3File._fetch_range

    async def cat_file(self, path, version_id=None, start=None, end=None, **further):
        content = await plain(self, path, version_id=version_id, start=start, end=end, **further)
        travelled[0] += len(content)
        return content

    def fetch_range(self, start, end):
        content = range_of(self, start, end)
        travelled[0] += len(content)
        return content

    s3fs.S3FileSystem._cat_file, s3fs.core.S3File._fetch_range = cat_file, fetch_range
    with tempfile.TemporaryDirectory() as place, server():
        fs = s3fs.S3FileSystem()
        for size, (number, side) in sizes.items():
            directory, bucket = Path(place, size.split()[0]), size.split()[0]
            directory.mkdir()
            patterns = write(directory, number, side)
            fs.mkdir(bucket)
            for file in directory.iterdir():
                fs.put_file(str(file), f"{bucket}/{file.name}")
            for kind, pattern in patterns.items():
                held = sum(file.stat().st_size for file in directory.glob(pattern))
                places = {"here": f"{directory}/{pattern}", "s3": f"s3://{bucket}/{pattern}"}
                times: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
                for _ in range(ROUNDS):
                    for name, source in places.items():
                        travelled[0], begun = 0, time.monotonic()
                        images = read_dataset([source])
                        listed, listing = time.monotonic(), travelled[0]
                        for image in read_ahead(lambda one: load_image(one.source), images, workers=THREADS, ahead=64):
                            assert image.width == side
                        times[name].append((listed - begun, time.monotonic() - listed))
                medians = {n: [statistics.median(part) for part in zip(*t, strict=True)] for n, t in times.items()}
                rows.append(
                    {
                        "name": f"{size} in {kind}",
                        "images": number,
                        "megabytes": held / 1e6,
                        "megabytes_to_list": listing / 1e6,
                        "megabytes_to_read": (travelled[0] - listing) / 1e6,
                        "images_per_second": {name: number / sum(parts) for name, parts in medians.items()},
                        "times_as_long": sum(medians["s3"]) / sum(medians["here"]),
                    }
                )
                print(rows[-1])
    config = {"small_images": small, "rounds": ROUNDS, "threads": THREADS}
    write_json(sys.argv[1], manifest("storage speed", config, started=started, load_before=load, rows=rows))


if __name__ == "__main__":
    main()

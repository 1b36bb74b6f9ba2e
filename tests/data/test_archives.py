"""Tar archives as downloads leave them."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from ifuvit.data.folder import read_folder
from ifuvit.data.library import read_dataset
from ifuvit.utils.errors import InputError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def archive(path: Path, first: int = 0, *, texts: tuple[bytes, ...] = (b"a bus", b"two"), mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for number, text in enumerate(texts, start=first):
            for name, content in ((f"{number:03d}.png", png(number)), (f"{number:03d}.txt", text)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("keep", [700, 2000, 2560, 3000])
def test_a_cut_archive_is_named(tmp_path: Path, keep: int) -> None:
    whole, cut = archive(tmp_path / "0.tar"), tmp_path / "1.tar"
    cut.write_bytes(Path(archive(tmp_path / "whole.tar", 2)).read_bytes()[:keep])
    with pytest.raises(InputError, match=r"/1\.tar: .*cut short"):
        read_dataset([whole, str(cut)])


def test_a_missing_end_mark_is_told(tmp_path: Path, capsys) -> None:
    content = Path(archive(tmp_path / "0.tar")).read_bytes()
    (tmp_path / "0.tar").write_bytes(content[: 4 * 1024])
    assert len(read_dataset([str(tmp_path / "0.tar")])) == 2
    assert "0.tar: ends without the end mark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds nothing"),
        (b"<html>404</html>" + b" " * 600, "not a tar archive"),
        (b"\x1f\x8b" + b"\0" * 600, "not a tar archive"),
        (b"\0" * 10240, "a tar archive without files"),
    ],
    ids=["empty", "page", "gzip", "without files"],
)
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(InputError, match=f"bad.tar: .*{says}") as caught:
        read_dataset([archive(tmp_path / "0.tar"), str(tmp_path / "bad.tar")])
    assert "\n" not in str(caught.value)


def test_a_bad_caption_inside_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "0.tar", texts=(b"a bus", b"caf\xe9"))
    with pytest.raises(InputError, match=r"0.tar: 001.txt: not UTF-8 text"):
        read_dataset([path])


def test_the_captions_are_those_of_a_folder(tmp_path: Path) -> None:
    texts = (b"\xef\xbb\xbfa bus\nsecond line\n", b"two\r\n", b"  three  ")
    images = read_dataset([archive(tmp_path / "0.tar", texts=texts)])
    with tarfile.open(tmp_path / "0.tar") as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    of_folder = read_folder(tmp_path / "folder")
    assert [[c.strip() for c in one.captions] for one in images] == [
        [c.strip() for c in one.captions] for one in of_folder
    ]


def test_brackets_in_a_path(tmp_path: Path) -> None:
    assert len(read_dataset([archive(tmp_path / "set [1]" / "part[0].tar")])) == 2


def test_compressed_archives_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0.tar.gz: a compressed archive; unpack it"):
        read_dataset([archive(tmp_path / "0.tar.gz", mode="w:gz")])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_an_image_is_not_passed_over(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "0.tar")
    with tarfile.open(path, "a") as tar:
        other = tarfile.TarInfo("latest")  # concerns nobody
        other.type, other.linkname = kind, "000.png"
        tar.addfile(other)
    assert len(read_dataset([path])) == 2
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("009.png")
        link.type, link.linkname = kind, "000.png"
        tar.addfile(link)
    with pytest.raises(InputError, match="0.tar: 009.png: is a link; archive the files themselves"):
        read_dataset([path])


def test_json_with_a_mark_and_json_without_an_end(tmp_path: Path) -> None:
    def of(text: bytes) -> str:
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name, content in (("0.png", png(0)), ("0.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return str(tmp_path / "0.tar")

    assert read_dataset([of(b'\xef\xbb\xbf{"caption": "a bus"}')])[0].captions == ("a bus",)
    with pytest.raises(InputError, match="0.tar: 0.json: not JSON"):
        read_dataset([of(b"[" * 100_000)])


def test_what_cannot_be_reached_now_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails once: the preparation ends, where it called the image broken; the next one has all of them."""
    from fake_encoders import FakeAutoencoder, FakeTextEncoder
    from fsspec.implementations.memory import MemoryFileSystem

    from ifuvit.data.config import PrepareConfig
    from ifuvit.data.prepare import encode
    from ifuvit.data.sources import DatasetSource
    from ifuvit.utils.distributed import Processes

    MemoryFileSystem().pipe_file("/set/0.tar", Path(archive(tmp_path / "0.tar", texts=(b"bus",) * 5)).read_bytes())
    source, read, calls = DatasetSource(sources=("memory://set/0.tar",)), MemoryFileSystem.cat_file, []

    def once(self, path, start=None, end=None, **more):
        calls.append(start)
        if len(calls) == 4:
            raise TimeoutError("the store is busy")
        return read(self, path, start=start, end=end, **more)

    def prepare() -> None:
        config = PrepareConfig(source=source, out=tmp_path / "out", size=12, workers=1)
        encode(config, source.read(), FakeAutoencoder(), FakeTextEncoder(), Processes())

    monkeypatch.setattr(MemoryFileSystem, "cat_file", once)
    with pytest.raises(InputError, match="memory://set/0.tar: cannot be read .the store is busy"):
        prepare()
    prepare()
    assert (tmp_path / "out/skipped.jsonl").read_text() == ""

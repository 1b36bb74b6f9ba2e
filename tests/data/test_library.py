import io
import json
import tarfile

import pytest
from PIL import Image

from ifuvit.data.images import load_image
from ifuvit.data.library import read_dataset
from ifuvit.utils.errors import InputError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def shade(image):
    return load_image(image.source).getpixel((0, 0))[0]


def webdataset(path, samples):
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_webdataset_with_text(tmp_path):
    webdataset(tmp_path / "0.tar", {"a": {"png": png(1), "txt": b"one"}, "b": {"png": png(2), "txt": b""}})
    webdataset(tmp_path / "1.tar", {"c": {"png": png(3), "txt": "drei \u00e4".encode()}})
    images = read_dataset([str(tmp_path / "*.tar")])
    assert [(entry.id, entry.captions) for entry in images] == [("a", ("one",)), ("b", ("",)), ("c", ("drei ä",))]
    assert [shade(entry) for entry in reversed(images)] == [3, 2, 1]


def test_webdataset_with_json(tmp_path):
    def meta(caption):
        return json.dumps({"caption": caption, "score": 1}).encode()

    path = webdataset(
        tmp_path / "0.tar", {"a": {"png": png(1), "json": meta("one")}, "b": {"png": png(2), "json": meta("two")}}
    )
    assert [entry.captions for entry in read_dataset([path])] == [("one",), ("two",)]


def test_parquet_with_lists_and_broken_images(tmp_path):
    features = datasets.Features(
        {"photo": datasets.Image(), "captions": datasets.List(datasets.Value("string")), "n": datasets.Value("int32")}
    )
    rows = {
        "photo": [{"bytes": png(7), "path": None}, {"bytes": b"junk", "path": None}, None],
        "captions": [["a", "b"], ["c"], []],
        "n": [1, 2, 3],
    }
    path = tmp_path / "d.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    images = read_dataset([str(path)])
    assert [entry.captions for entry in images] == [("a", "b"), ("c",), ()]
    assert shade(images[0]) == 7
    with pytest.raises(InputError, match="not a readable image"):
        load_image(images[1].source)
    with pytest.raises(InputError, match="row 2: has no image"):
        images[2].source.read()
    assert len(read_dataset([str(path)], split="train[:1]")) == 1
    with pytest.raises(InputError, match="n is a int, not text"):
        read_dataset([str(path)], caption_column="n")
    with pytest.raises(InputError, match="no column 'nope'; it has photo, captions, n"):
        read_dataset([str(path)], caption_column="nope")
    with pytest.raises(InputError, match="no column 'nope'; it has photo, captions, n"):
        read_dataset([str(path)], image_column="nope")


def test_columns_that_cannot_be_guessed(tmp_path):
    path = str(tmp_path / "d.parquet")
    datasets.Dataset.from_dict({"x": [png(1)], "y": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match="--image-column; its columns are x, y"):
        read_dataset([path])
    with pytest.raises(InputError, match="--caption-column; its columns are x, y"):
        read_dataset([path], image_column="x")
    (only,) = read_dataset([path], image_column="x", caption_column="y")
    assert (shade(only), only.captions) == (1, ("a",))


def test_a_configuration_of_a_file_is_refused(tmp_path):
    path = webdataset(tmp_path / "0.tar", {"a": {"png": png(1), "txt": b"one"}})
    with pytest.raises(InputError, match=r"--name snow: is for a data set of the hub; .*0.tar is a file"):
        read_dataset([path], name="snow")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_dataset([str(tmp_path / "absent.parquet")])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read as a data set"):
        read_dataset([str(tmp_path / "bad.parquet")])
    with pytest.raises(InputError, match="cannot be read as a data set"):
        read_dataset([str(tmp_path / "nothing-here")])
    with pytest.raises(InputError, match="all .tar or all .parquet"):
        read_dataset(["a.tar", "b.parquet"])


def table(path, images, captions):
    import pyarrow
    from pyarrow import parquet

    cells = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    parquet.write_table(
        pyarrow.table({"image": pyarrow.array(images, cells), "caption": captions}), path, compression="zstd"
    )
    return str(path)


def test_damaged_pages_of_a_table_are_one_line(tmp_path):
    from pyarrow.parquet import ParquetFile

    file = tmp_path / "a.parquet"
    path = table(file, [{"bytes": png(row), "path": None} for row in range(9)], [f"bus {row}" for row in range(9)])
    column = ParquetFile(path).metadata.row_group(0).column(2)
    content, begin = bytearray(file.read_bytes()), column.dictionary_page_offset or column.data_page_offset
    content[begin + 20 : begin + 40] = bytes(byte ^ 255 for byte in content[begin + 20 : begin + 40])
    file.write_bytes(content)
    with pytest.raises(InputError, match="a.parquet: cannot be read as a data set"):
        read_dataset([path])


def test_a_table_names_files_of_its_own_folder_only(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("set/in.png", "out.png"):
        (tmp_path / name).write_bytes(png(7))
    (tmp_path / "set/link.png").symlink_to(tmp_path / "out.png")
    names = ["in.png", "../out.png", str(tmp_path / "out.png"), "link.png", ".", "no.png", str(tmp_path / "set/in.png")]
    path = table(tmp_path / "set/a.parquet", [{"bytes": None, "path": name} for name in names], ["a"] * len(names))
    first, *others, last = read_dataset([path])
    assert shade(first) == shade(last) == 7
    for image, why in zip(others, ["lies outside"] * 3 + ["no such file"] * 2, strict=True):
        with pytest.raises(InputError, match=f"a.parquet: row .*{why}"):
            load_image(image.source)


def test_captions_of_other_bytes_are_left_out_as_such(tmp_path):
    """They were taken as two question marks."""
    from ifuvit.data.plan import make_plan

    path = table(tmp_path / "a.parquet", [{"bytes": png(row), "path": None} for row in range(2)], [b"bus", b"caf\xe9"])
    plan = make_plan(read_dataset([path]))
    assert [image.captions for image in plan.images] == [("bus",)]
    assert [entry["reason"] for entry in plan.skipped] == ["no caption is UTF-8 text"]

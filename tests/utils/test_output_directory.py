"""Whether a directory is the command's to write: what is new, what is its own, and what is somebody else's."""

import json
import os
from pathlib import Path

import pytest

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, now, write_json, write_manifest


def output(path: Path, **changes) -> OutputDirectory:
    return OutputDirectory(path, "count judge", **changes)


@pytest.mark.parametrize("names", [(), (".DS_Store",), (".model.x8f3.tmp",), (".old/file",), ("images.u8", "cache/a")])
def test_new_directories(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    own = output(tmp_path / "out", own=("images.*", "cache"))
    before = sorted(tmp_path.rglob("*"))
    assert own.earlier() is None
    assert sorted(tmp_path.rglob("*")) == before  # asking changes nothing
    assert not own.begin({"steps": 3})
    assert own.earlier() == {"command": "count judge", "steps": 3}


def test_an_earlier_result_is_replaced_whole(tmp_path: Path) -> None:
    out = output(tmp_path / "out")
    for content in ("first", "second"):
        with out.replace() as directory:
            (directory / content).touch()
            write_manifest(directory, "count judge", {}, started=now(), content=content)
    assert (found := out.earlier()) and found["content"] == "second"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "second"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: (out / "thesis.txt").write_text("mine"),
        lambda out: (out / "images").mkdir(),
        lambda out: write_json(out / "manifest.json", {"command": "train"}),
        lambda out: write_json(out / "manifest.json", {"commands": "count judge"}),
        lambda out: write_json(out / "manifest.json", ["count judge"]),
    ],
)
def test_what_belongs_to_others_is_refused(tmp_path: Path, spoil) -> None:
    out = tmp_path / "out"
    out.mkdir()
    spoil(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for attempt in (output(out).earlier, lambda: output(out).begin({}), output(out).replace().__enter__):
        with pytest.raises(
            InputError, match=r"--out .*/out: holds something else already \(.*`ifuvit count judge`"
        ) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"command": "count j')
    with pytest.raises(InputError, match="manifest.json: not a valid JSON file"):
        output(tmp_path).earlier()


def test_going_on_needs_the_same_identity(tmp_path: Path) -> None:
    out = output(tmp_path, record="run.json", flag="--run")
    identity = {"config": {"steps": 3, "sizes": [1, 2], "model": {"depth": 4}}, "images_sha256": "ab" * 32}
    assert not out.begin(identity, device="cpu")
    assert out.begin(identity, device="cuda")  # what is not of the identity may differ, and is recorded
    assert (found := out.earlier()) and found["device"] == "cuda"
    for path, value, words in (
        (("config", "steps"), 4, "steps 3, not 4"),
        (("config", "sizes"), [1], r"sizes \[1, 2\], not \[1\]"),
        (("config", "model", "depth"), 6, "model.depth 4, not 6"),
        (("images_sha256",), "cd" * 32, "other images; give"),
        (("seed",), 1, "seed None, not 1"),
    ):
        other = json.loads(json.dumps(identity))
        *places, last = path
        inner = other
        for place in places:
            inner = inner[place]
        inner[last] = value
        with pytest.raises(InputError, match=f"--run .*: was begun with {words}"):
            out.begin(other)
        with pytest.raises(InputError, match=words):
            out.matches(other)
    assert out.begin(identity) and out.matches(identity)


def test_a_hash_is_shortened() -> None:
    from ifuvit.utils.files import _difference

    assert (
        _difference({"autoencoder": "ab" * 32}, {"autoencoder": "cd" * 32}) == f"autoencoder {'cd' * 6}, not {'ab' * 6}"
    )
    assert _difference({"vae": {"fingerprint": "1"}}, {"vae": {"fingerprint": "2"}}) == "other vae"


def test_a_record_whose_name_is_the_commands_alone_need_not_name_it(tmp_path: Path) -> None:
    out = output(tmp_path, record="plan.json", signed=False)
    assert not out.matches({"size": 64}) and not (tmp_path / "plan.json").exists()
    assert not out.begin({"size": 64})
    assert out.earlier() == {"size": 64}
    assert out.begin({"size": 64})
    write_json(tmp_path / "plan.json", [1])
    with pytest.raises(InputError, match="holds something else"):
        out.earlier()


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*/file: is a file; give a directory"):
        output(tmp_path / "file").earlier()
    with pytest.raises(InputError, match=r"--out .*/file/a/b: .*/file is a file"):
        output(tmp_path / "file" / "a" / "b").earlier()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="dangling: is a file"):
        output(tmp_path / "dangling").earlier()
    if os.geteuid():
        (tmp_path / "sealed").mkdir(mode=0o500)
        with pytest.raises(InputError, match=r"sealed/new: cannot be written \(Permission denied\)"):
            output(tmp_path / "sealed" / "new").earlier()

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match=r"/new: cannot be written \(Read-only file system\)"):
        output(tmp_path / "new").earlier()
    assert not (tmp_path / "new").exists()

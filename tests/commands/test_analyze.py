"""`ifuvit analyze`: what it writes, and one line for invalid input."""

import json

import numpy as np
import pytest

from ifuvit import results
from ifuvit.results import Analysis


def test_attention(ifuvit, tiny_run, tmp_path) -> None:
    out = tmp_path / "out"
    arguments = ["--prompts", "two sheep on grass", "a bus", "--steps", 4, "--bands", 2, "--out", out, "--seed", 3]
    printed = ifuvit("analyze", "attention", tiny_run, *arguments).out
    assert f"{out / 'index.html'}: written" in printed
    analysis = results.from_file(out / "analysis.json", Analysis)
    name = analysis.models[0].name
    assert analysis.command == "analyze attention" and analysis.blocks == {name: ("mid_block",)}
    with np.load(out / analysis.arrays[name], allow_pickle=False) as arrays:
        for array in ("text", "image", "patches", "shares", "tokens", "token_words", "token_categories"):
            assert len(arrays[f"{array}.axes"]) == arrays[array].ndim
        assert arrays["text.axes"].tolist() == ["prompt", "band", "block", "head", "token", "row", "column"]
        assert arrays["text"].shape == (2, 2, 1, 2, 8, 2, 2)
        assert arrays["axis.block"].tolist() == ["mid_block"] and arrays["axis.band"].tolist() == [[0, 0.5], [0.5, 1]]
        assert arrays["token_words"][1].tolist() == [-1, 0, 1, -1, -1, -1, -1, -1]
        np.testing.assert_allclose(arrays["text"].sum(4), 1, atol=1e-5)
    shares = {one.of: one.value for one in analysis.of("attention share", block="mid_block", levels=None)}
    assert shares["image"] + shares["time"] == pytest.approx(1, abs=1e-5)
    assert shares["all words"] + shares["special"] + shares["padding"] == pytest.approx(1, abs=1e-5)
    # The images are those of `generate`.
    ifuvit(
        "generate",
        "two sheep on grass",
        "a bus",
        "--model",
        tiny_run,
        "--steps",
        4,
        "--seed",
        3,
        "--out",
        tmp_path / "g",
    )
    from PIL import Image

    for file, other in zip(analysis.images[name], sorted((tmp_path / "g").glob("0*.png")), strict=True):
        assert Image.open(out / file).tobytes() == Image.open(other).tobytes()
    page = (out / "index.html").read_text()
    assert 'src="http' not in page and 'id="level"' in page and "two sheep on grass" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0].replace("<\\/", "</"))
    model = data[0]["models"][0]
    rows = ["two", "sheep", "on", "grass", "start, end", "padding", "all words, mean", "from patch 1,1"]
    assert model["words"] == rows
    assert model["levels"] == ["0 to 0.5", "0.5 to 1", "all"] and model["heads"] == 2
    assert len(model["means"]) == 3 * 1 * 3 * 8
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        *("0000-levels.png", "0000-words.png", "0001-levels.png", "0001-words.png")
    ]
    assert list((out / "plots").glob("*.svg"))
    ifuvit("analyze", "attention", tiny_run, *arguments)  # replaces its own output


@pytest.mark.parametrize(
    ("action", "further"),
    [
        ("rank", ["--crop-border", 0, "--steps", 3]),
        ("ablate", ["--alignment", "none", "--counter", "none", "--steps", 3]),
    ],
)
def test_prompts_from_a_file(ifuvit, tiny_run, tmp_path, action, further) -> None:
    (tmp_path / "prompts.txt").write_text("two sheep\na bus on grass\nthree apples\n")
    out = tmp_path / "out"
    ifuvit("analyze", action, tiny_run, "--prompts-file", tmp_path / "prompts.txt", "--out", out, *further)
    analysis = results.from_file(out / "analysis.json", Analysis)
    assert analysis.action == action and len(analysis.prompts) == 3 and analysis.measurements
    assert "<svg" in (out / "index.html").read_text()
    assert all((out / file).is_file() for file in analysis.arrays.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "{run}", "--blocks", "mid_blok"], "--blocks mid_blok"),
        (["attention", "{run}", "--blocks", "in_blocks.0"], "sees no text"),
        (["attention", "{run}", "--words", "zebra"], "--words zebra: not in the prompts; their words are"),
        (["attention", "{run}", "--prompts", "a bus left of two sheep red"], "has 9 tokens, the text encoder reads 8"),
        (["attention", "{run}", "--crop-border", "1"], "--crop-border 1: leaves nothing of 2 x 2 patches"),
        (["rank", "{run}", "--num-prompts", "2"], "--crop-border 1: leaves nothing"),
        (["attention", "{run}", "--patches", "0,2"], "--patches 0,2: give ROW,COLUMN, each from 0 to 1"),
        (["attention", "{images}"], "not a text-to-image model of this package"),
        (["attention", "{run}", "{run}"], "two models are called"),
        (["attention", "no-such-model"], "no-such-model"),
        (["ablate", "{run}", "--levels", "0.5", "0.2"], "--levels 0.5 0.2"),
        (["probe", "{run}", "--levels", "1"], "--levels 1"),
        (["probe", "{run}"], "too small"),
        (["attention", "{run}", "--out", "{images}"], "holds something else already"),
    ],
)
def test_invalid_input_is_one_line(refusal, tiny_run, tmp_path, arguments, message) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "a.png")
    given = [part.format(run=tiny_run, images=images) for part in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    if given[0] == "attention" and "--prompts" not in given:
        given += ["--prompts", "two sheep"]
    assert message in refusal("analyze", *given)
    assert not (tmp_path / "out").exists()

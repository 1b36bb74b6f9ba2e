import numpy as np
from PIL import Image

from ifuvit.utils import image_grid as module
from ifuvit.utils.image_grid import make_grid


def test_grid():
    images = [Image.new("RGB", (64, 64), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    grid = make_grid(images, ["a bus", "word " * 60, "x" * 300])
    factor = 4  # 64 pixels are shown as 256, each as a square
    assert grid.getpixel((12, 12)) == (200, 0, 0) == grid.getpixel((12 + 64 * factor - 1, 12 + 64 * factor - 1))
    assert grid.width == 12 + 2 * (64 * factor + 12)
    label = np.asarray(grid.crop((12, 12 + 256, 12 + 256, 12 + 256 + 40)))
    assert label.min() < 100  # something is written below the image
    assert make_grid(images, ["", "", ""], columns=3).width == 12 + 3 * (64 * factor + 12)
    assert make_grid([Image.new("RGB", (256, 256))], ["one"]).width == 256 + 24


def test_every_character_is_drawn_or_named(monkeypatch):
    for text in ("three sheep", "drei Käfer", "три овцы", "δύο πρόβατα"):
        font, written = module._font(text)
        assert written == {}, text
        assert module._lacking(font, set(text) - {" "}) == set()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)  # no fontconfig
    _, written = module._font("三只羊 and ä")
    assert written == {ord(c): f"<U+{ord(c):04X}>" for c in "三只羊"}
    assert "羊".translate(written) == "<U+7F8A>"


def test_the_font_that_lacks_least_is_taken(monkeypatch):
    latin = module.ImageFont.load_default(14)
    monkeypatch.setattr(module, "_from_fontconfig", lambda characters: latin)
    font, written = module._font("ä羊")  # Pillow's own font has neither
    assert font is not latin and list(written) == [ord("羊")]
    monkeypatch.setattr(module, "_lacking", lambda font, characters: set() if font is latin else {"羊"})
    assert module._font("ä羊") == (latin, {})


def test_long_labels():
    font, _ = module._font("a")
    width = int(font.getlength("word word word")) + 1
    assert module._wrap("  word word\nword  word ", font, width, lines=3) == ["word word word", "word"]
    assert module._wrap("word " * 9, font, width, lines=2)[0] == "word word word"
    assert module._wrap("word " * 9, font, width, lines=2)[1].endswith("…")
    broken = module._wrap("x" * 30, font, width, lines=9)
    assert "".join(broken) == "x" * 30 and len(broken) > 1
    assert module._wrap("", font, width, lines=3) == [""]
    for lines in (1, 2, 3):
        rows = module._wrap("three sheep " * 9, font, width, lines=lines)
        assert len(rows) == lines and max(map(font.getlength, rows)) <= width

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
    plain, better = module.ImageFont.load_default(14), next(f for n, f in enumerate(module._fonts(set("ä"))) if n == 1)
    monkeypatch.setattr(module, "_fonts", lambda characters: iter([plain, better, plain]))
    font, written = module._font("ä羊")
    assert font is better and list(written) == [ord("羊")]

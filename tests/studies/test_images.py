"""Blinding: nothing but pixels is left."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ifuvit.studies.images import blind, blind_name, common_size, spoil
from ifuvit.utils.errors import InputError


def telling_image(path: Path, *, size: tuple[int, int] = (12, 12), seed: int = 0) -> np.ndarray:
    """An image whose file says who drew it, in every way that PNG has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    info = PngInfo()
    info.add_text("model", "secret-model")
    info.add_itxt("prompt", "secret prompt")
    exif = Image.Exif()
    exif[0x010E] = "secret-model"
    Image.fromarray(pixels).save(path, pnginfo=info, exif=exif, dpi=(300, 300), icc_profile=b"secret-model profile")
    return pixels


def test_pixels_stay_and_nothing_else(tmp_path: Path) -> None:
    pixels = telling_image(tmp_path / "secret-model.png")
    blind(tmp_path / "secret-model.png", tmp_path / "blind.png", size=12)
    with Image.open(tmp_path / "blind.png") as image:
        assert np.array_equal(np.asarray(image), pixels) and image.mode == "RGB"
        assert not set(image.info) - {"interlace"} and not image.getexif()
    content = (tmp_path / "blind.png").read_bytes()
    kinds, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        kinds.append(content[place + 4 : place + 8])
        place += length + 12
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"} and b"secret" not in content


def test_the_same_pixels_give_the_same_bytes_whoever_drew_them(tmp_path: Path) -> None:
    pixels = telling_image(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    for name in ("a.png", "b.bmp"):
        blind(tmp_path / name, tmp_path / f"blind-{name[0]}.png", size=12)
    assert (tmp_path / "blind-a.png").read_bytes() == (tmp_path / "blind-b.png").read_bytes()


def test_names_tell_nothing() -> None:
    names = {blind_name() for _ in range(1000)}
    assert len(names) == 1000 and {len(name) for name in names} == {36}


def test_images_of_different_sizes_need_one(tmp_path: Path) -> None:
    telling_image(tmp_path / "a.png")
    telling_image(tmp_path / "b.png", size=(24, 24))
    assert common_size([tmp_path / "a.png"] * 2) == 12
    with pytest.raises(InputError, match=r"b.png: 24 x 24 pixels, where .*a.png has 12 x 12; .*--size"):
        common_size([tmp_path / "a.png", tmp_path / "b.png"])
    telling_image(tmp_path / "wide.png", size=(24, 12))
    with pytest.raises(InputError, match="wide.png: 24 x 12 pixels"):
        common_size([tmp_path / "wide.png"])
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="c.png: not a readable image"):
        common_size([tmp_path / "c.png"])
    blind(tmp_path / "wide.png", tmp_path / "square.png", size=16)
    assert common_size([tmp_path / "square.png"]) == 16


@pytest.mark.parametrize("size", [5, 16, 64, 100])
def test_a_spoiled_image_keeps_its_size_and_not_its_contents(size: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
    spoiled = spoil(image, seed=1)
    assert spoiled.size == image.size
    assert not np.array_equal(np.asarray(spoiled), np.asarray(image))
    assert np.array_equal(np.asarray(spoiled), np.asarray(spoil(image, seed=1)))
    if size % 16 == 0:
        assert sorted(np.asarray(spoiled).ravel()) == sorted(np.asarray(image).ravel())

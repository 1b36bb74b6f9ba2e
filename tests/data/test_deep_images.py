"""Images of more than 8 bits, and of floats."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ifuvit.data.images import load_image
from ifuvit.utils.errors import InputError


def tiff(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="TIFF")
    return file.getvalue()


def reds(content: bytes) -> list[int]:
    return np.asarray(load_image(content))[0, :, 0].tolist()


def test_floats_from_zero_to_one_are_not_black() -> None:
    assert reds(tiff(np.array([[0.0, 0.5, 1.0]], np.float32))) == [0, 128, 255]


def test_floats_of_eight_bits() -> None:
    assert reds(tiff(np.array([[0.0, 100.2, 255.0]], np.float32))) == [0, 100, 255]


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 300.0], [np.nan, 1.0], [np.inf, 0.0]])
def test_other_floats_are_refused(tmp_path: Path, values: list[float]) -> None:
    (tmp_path / "heights.tif").write_bytes(tiff(np.array([values], np.float32)))
    with pytest.raises(InputError, match="heights.tif: has float values from .* scale them to 0 ... 1") as caught:
        load_image(tmp_path / "heights.tif")
    assert "\n" not in str(caught.value)


def test_dark_images_of_sixteen_bits_stay_dark() -> None:
    """Values below 256 are nearly black, not 8-bit ones."""
    assert reds(tiff(np.array([[0, 128, 255]], np.uint16))) == [0, 0, 1]
    assert reds(tiff(np.array([[0, 32896, 65535]], np.uint16))) == [0, 128, 255]


def test_what_pillow_does_not_know_is_told_without_an_address() -> None:
    with pytest.raises(InputError) as caught:
        load_image(b"<html>not found</html>", name="1.jpg")
    assert str(caught.value) == "1.jpg: not a readable image (of no known format)"


def test_a_random_byte_changed_is_one_line_or_an_image() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (16, 16, 3), np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(values).save(file, format=kind)
        for _ in range(60):
            content = bytearray(file.getvalue())
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            try:
                load_image(bytes(content))
            except InputError as error:
                assert "\n" not in str(error) and " at 0x" not in str(error)

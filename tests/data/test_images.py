import io

import numpy as np
import pytest
from PIL import Image

from ifuvit.data.images import center_crop_resize, load_image, pad_resize, to_images, to_tensor
from ifuvit.utils.errors import InputError


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return file.getvalue()


def test_alpha_goes_on_white():
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    result = load_image(encoded(image))
    assert result.mode == "RGB"
    assert [result.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]
    assert result.getpixel((2, 0)) == pytest.approx((127, 127, 127), abs=1)


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 0, 255, 0])
    image.putpixel((1, 0), 1)
    plain = load_image(encoded(image))
    assert [plain.getpixel((x, 0)) for x in range(2)] == [(0, 0, 255), (0, 255, 0)]
    clear = load_image(encoded(image, transparency=1))
    assert [clear.getpixel((x, 0)) for x in range(2)] == [(0, 0, 255), (255, 255, 255)]


def test_grey_with_alpha_and_sixteen_bits():
    image = Image.new("LA", (1, 1), (0, 0))
    assert load_image(encoded(image)).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    assert [load_image(encoded(deep)).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_camera_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (4, 8)


def test_broken_images_are_named(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)))
    for name, content in {"text.png": b"not an image", "half.png": whole[: len(whole) // 2], "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)
        with pytest.raises(InputError, match="image 7"):
            load_image(content, name="image 7")
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="directory"):
        load_image(tmp_path)


@pytest.mark.parametrize("shape", [(37, 50), (50, 37), (21, 21), (9, 64)])
def test_crop_is_that_of_u_vit(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    # The crop of U-ViT's datasets.py, on arrays.
    crop = min(shape)
    top, left = (shape[0] - crop) // 2, (shape[1] - crop) // 2
    square = pixels[top : (shape[0] + crop) // 2, left : (shape[1] + crop) // 2]
    expected = np.asarray(Image.fromarray(square).resize((16, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(np.asarray(center_crop_resize(Image.fromarray(pixels), 16)), expected)


def test_tensors_span_minus_one_to_one():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    images[0, 0, 0], images[1, 2, 3] = 0, 255
    tensor = to_tensor(images[:, ::-1])  # not contiguous
    assert tensor.shape == (2, 3, 3, 4) and str(tensor.dtype) == "torch.float32"
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(np.rint((tensor.numpy() + 1) * 127.5), images[:, ::-1].transpose(0, 3, 1, 2))
    assert np.array_equal(to_images(tensor), images[:, ::-1])
    assert to_images(3 * tensor).min() == 0 and to_images(3 * tensor).max() == 255


@pytest.mark.parametrize("shape", [(30, 10), (10, 30), (20, 20)])
def test_padding_keeps_the_whole_image(shape):
    image = Image.new("RGB", shape, (200, 0, 0))
    padded = np.asarray(pad_resize(image, 30 if max(shape) == 30 else 20))
    assert (padded == (200, 0, 0)).all(-1).sum() == shape[0] * shape[1]
    assert (padded == (255, 255, 255)).all(-1).sum() == max(shape) ** 2 - shape[0] * shape[1]
    inside = np.argwhere((padded == (200, 0, 0)).all(-1))
    assert np.abs(inside.mean(0) - (max(shape) - 1) / 2).max() <= 0.5

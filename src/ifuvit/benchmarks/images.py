"""Captioned images to read and encode, drawn for the occasion."""

from pathlib import Path

from ifuvit.data.images import CaptionedImage


def draw_images(directory: Path, count: int, *, size: int, seed: int) -> list[CaptionedImage]:
    """Draw OpenMoji Scenes into PNG files of an existing directory."""
    from PIL import Image

    from ifuvit.data.scenes import draw_scene

    images = []
    for index in range(count):
        scene = draw_scene(seed, index, size=size, split="val")
        file = directory / f"{index:06d}.png"
        Image.fromarray(scene.image).save(file)
        images.append(CaptionedImage(file.stem, file, scene.captions))
    return images

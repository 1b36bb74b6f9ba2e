"""Captioned pictures to read and encode, drawn for the occasion."""

from pathlib import Path

from ifuvit.data.images import Picture


def draw_pictures(directory: Path, count: int, *, size: int, seed: int) -> list[Picture]:
    """Draw OpenMoji Scenes into PNG files of an existing directory."""
    from PIL import Image

    from ifuvit.data.scenes import draw_scene

    pictures = []
    for index in range(count):
        scene = draw_scene(seed, index, size=size, split="val")
        file = directory / f"{index:06d}.png"
        Image.fromarray(scene.image).save(file)
        pictures.append(Picture(file.stem, file, scene.captions))
    return pictures

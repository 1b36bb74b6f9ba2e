"""The ground of an image, on drawn scenes and on what is none."""

import numpy as np
import pytest

from ifuvit.data.scenes import BACKGROUNDS, draw_scene
from ifuvit.metrics.counting.grounds import ground_of


def test_every_scene_has_its_ground():
    for index in range(150):
        scene = draw_scene(11, index, split="val")
        assert ground_of(scene.image) == scene.background
        blurred = scene.image.reshape(16, 4, 16, 4, 3).mean((1, 3)).round().astype(np.uint8)
        assert ground_of(blurred) == scene.background  # at a quarter of the size too


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 128, 128), (200, 40, 40), (255, 255, 0)])
def test_other_colors_are_no_ground(color):
    assert ground_of(np.full((64, 64, 3), color, np.uint8)) is None


def test_a_ground_upside_down_or_half_hidden():
    grass = next(one for one in BACKGROUNDS if one.name == "grass")
    gradient = np.linspace(grass.top, grass.bottom, 64)[:, None].repeat(64, axis=1).round().astype(np.uint8)
    gradient[:30] = 0
    assert ground_of(gradient) == "grass"
    gradient[:40] = 0
    assert ground_of(gradient) is None

"""Images as the page shows them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def overlay(image: "Image", values: np.ndarray, size: int = 384) -> "Image":
    """A map (S, S) over the gray image, from 0 to its largest value."""
    from PIL import Image

    from ifuvit.reporting.attention_figures import colored

    heat = Image.fromarray(colored(values / max(float(values.max()), 1e-12)))
    under = image.convert("L").convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return Image.blend(under, heat.resize((size, size), Image.Resampling.NEAREST), 0.72)


def enlarged(image: "Image", least: int = 256) -> "Image":
    """A small image by a whole factor, so that every pixel stays a crisp square."""
    from PIL import Image

    factor = max(1, least // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)

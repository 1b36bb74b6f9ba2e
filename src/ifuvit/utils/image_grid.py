"""Images in rows with their prompts below."""

import bisect
import shutil
import subprocess
from collections.abc import Sequence

import fontpkg
from PIL import Image, ImageDraw, ImageFont

_HEIGHT = 14


def make_grid(images: Sequence[Image.Image], prompts: Sequence[str], *, columns: int | None = None) -> Image.Image:
    """The images in rows with their prompts below; small ones are enlarged by a whole factor so that every pixel
    stays a crisp square. Characters that no font at hand has are written as their code points.

    Args:
        images: N >= 1 images of one size.
        prompts: N labels.
        columns: images a row; by default about as many as rows, 8 at most.
    """
    assert images and len(images) == len(prompts)
    columns = min(columns or min(8, round(len(images) ** 0.5 + 0.3)), len(images))
    factor = max(1, round(224 / images[0].height))
    width, height = images[0].width * factor, images[0].height * factor
    (font, written), gap, line = _font("".join(prompts)), 12, 18
    labels = [_wrap(prompt.translate(written), font, width, lines=3) for prompt in prompts]
    label_height = max(len(label) for label in labels) * line + 6
    rows = -(-len(images) // columns)
    grid = Image.new(
        "RGB", (gap + columns * (width + gap), gap + rows * (height + label_height + gap)), (250, 250, 250)
    )
    draw = ImageDraw.Draw(grid)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        x = gap + number % columns * (width + gap)
        y = gap + number // columns * (height + label_height + gap)
        grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, y))
        for row, text in enumerate(label):
            draw.text((x, y + height + 4 + row * line), text, fill=(30, 30, 30), font=font)
    return grid


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size in one, with a narrow white gap."""
    width, height = images[0].size
    joined = Image.new("RGB", (len(images) * (width + 2) - 2, height), "white")
    for number, image in enumerate(images):
        joined.paste(image, (number * (width + 2), 0))
    return joined


def _font(text: str) -> tuple[ImageFont.FreeTypeFont, dict[int, str]]:
    """A font for all characters of `text`, as far as one has them, and what to write in place of the others."""
    characters = {character for character in text if not character.isspace()}
    font = ImageFont.truetype(fontpkg.path("Noto Sans"), _HEIGHT)  # Latin, Greek, Cyrillic
    missing = _lacking(font, characters)
    if missing and (other := _from_fontconfig(characters)):
        font, missing = min((font, missing), (other, _lacking(other, characters)), key=lambda found: len(found[1]))
    return font, {ord(character): f"<U+{ord(character):04X}>" for character in missing}


def _from_fontconfig(characters: set[str]) -> ImageFont.FreeTypeFont | None:
    """What fontconfig, where it is installed, finds for these characters."""
    if shutil.which("fc-match") is None:
        return None
    wanted = " ".join(f"{ord(character):x}" for character in sorted(characters))
    command = ["fc-match", "--format", "%{file}\n%{index}", f":charset={wanted}"]
    try:
        file, index = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        return ImageFont.truetype(file, _HEIGHT, index=int(index))
    except (OSError, ValueError):  # no answer, or a format that Pillow does not read
        return None


def _lacking(font: ImageFont.FreeTypeFont, characters: set[str]) -> set[str]:
    """The characters for which a font draws the box that stands for any character it does not have."""
    box = bytes(font.getmask("\U0010ffff"))  # type: ignore[arg-type]
    return {character for character in characters if bytes(font.getmask(character)) == box}  # type: ignore[arg-type]


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, *, lines: int) -> list[str]:
    """`text` broken into lines no wider than `width` pixels, the last one shortened if it takes more than `lines`."""

    def fitting(part: str, suffix: str = "") -> int:
        lengths = range(len(part) + 1)
        return max(1, bisect.bisect_right(lengths, width, key=lambda n: font.getlength(part[:n] + suffix)) - 1)

    rows, rest = [], " ".join(text.split())
    while len(rows) < lines - 1 and (end := fitting(rest)) < len(rest):
        space = rest.rfind(" ", 0, end + 1)
        end = space if space > 0 else end  # one word that is wider than the line is broken
        rows.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*rows, rest if fitting(rest) >= len(rest) else rest[: fitting(rest, "…")] + "…"]

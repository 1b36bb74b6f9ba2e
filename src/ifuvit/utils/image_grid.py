"""Images in rows with their prompts below."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
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
    factor = max(1, round(224 / images[0].width))
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


def _font(text: str) -> tuple[Font, dict[int, str]]:
    """A font that has all characters of `text`, as far as there is one, and what to write in place of those it lacks."""
    characters = {character for character in text if not character.isspace()}
    font, missing = None, characters
    for candidate in _fonts(characters):
        lacking = _lacking(candidate, characters)
        if font is None or len(lacking) < len(missing):
            font, missing = candidate, lacking
        if not missing:
            break
    assert font is not None
    return font, {ord(character): f"<U+{ord(character):04X}>" for character in missing}


def _fonts(characters: set[str]) -> Iterator[Font]:
    """Pillow's own font (Latin without accents), the one that comes with matplotlib (European scripts, Arabic), and what
    fontconfig, where it is installed, finds for these characters."""
    yield ImageFont.load_default(size=_HEIGHT)
    matplotlib = find_spec("matplotlib")  # not imported: that takes a second
    if matplotlib is not None and matplotlib.origin is not None:
        dejavu = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if dejavu.is_file():
            yield ImageFont.truetype(dejavu, _HEIGHT)
    if shutil.which("fc-match") is not None:
        wanted = " ".join(f"{ord(character):x}" for character in sorted(characters))
        asked = ["fc-match", "--format", "%{file}\n%{index}", f":charset={wanted}"]
        answer = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
        with contextlib.suppress(OSError, ValueError, IndexError):  # a format that Pillow does not read
            yield ImageFont.truetype(answer[0], _HEIGHT, index=int(answer[1]))


def _lacking(font: Font, characters: set[str]) -> set[str]:
    """The characters for which a font draws the box that stands for any character it does not have."""
    box = bytes(font.getmask("\U0010ffff"))  # type: ignore[arg-type]
    return {character for character in characters if bytes(font.getmask(character)) == box}  # type: ignore[arg-type]


def _wrap(text: str, font: Font, width: int, *, lines: int) -> list[str]:
    """`text` broken into lines no wider than `width` pixels, the last one shortened if it takes more than `lines`."""
    rows, rest = [""], text.split()
    while rest:
        word = rest.pop(0)
        longer = f"{rows[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            rows[-1] = longer
        elif not rows[-1]:  # one word that is wider than the line
            fits = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            rows[-1] = word[:fits]
            rest[:0] = [word[fits:]] if word[fits:] else []
        else:
            rows.append("")
            rest.insert(0, word)
        if len(rows) > lines:
            rows = rows[:lines]
            while rows[-1] and font.getlength(rows[-1] + "…") > width:
                rows[-1] = rows[-1][:-1]
            rows[-1] += "…"
            break
    return rows

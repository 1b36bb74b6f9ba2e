"""The page and the grid of a directory of `ifuvit generate`."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifuvit import results
from ifuvit.evaluation.generate import beside
from ifuvit.utils.files import atomic_path, write_text

# The page has its images inside as long as it stays small enough to be mailed; beyond that it refers to the files.
_EMBED_BYTES = 20_000_000
# More images than this do not fit into a grid that can be looked at.
_GRID_IMAGES = 400


def write_gallery(directory: Path) -> None:
    """Write index.html, all images with their prompts, and grid.png, the first ones, from the directory's manifest. Images
    of a second model (`ifuvit generate --beside`) stand on the right of the first one's."""
    from PIL import Image

    from ifuvit.utils.image_grid import make_grid, side_by_side

    generated = results.from_file(directory / "manifest.json", results.GeneratedImages)
    models, columns = [generated.model], [[directory / image.file for image in generated.images]]
    if (second := generated.config.get("beside")) is not None:
        other = results.from_file(directory / beside(second) / "manifest.json", results.GeneratedImages)
        models.append(other.model)
        columns.append([directory / beside(second) / image.file for image in other.images])
    rows = list(zip(*columns, strict=True))
    prompts = [image.prompt for image in generated.images]
    shown = [side_by_side([Image.open(file) for file in row]) for row in rows[:_GRID_IMAGES]]
    grid = make_grid(shown, prompts[: len(shown)])
    with atomic_path(directory / "grid.png") as path:
        grid.save(path, format="PNG")
    settings = {"model": ", ".join(models), **generated.sampling, "seed": generated.seed}
    if generated.verification:
        settings["verify"] = generated.verification
    if negative_prompt := generated.config.get("negative_prompt"):
        settings["negative_prompt"] = negative_prompt
    large = shown[0].width >= 200 * len(models)
    write_text(directory / "index.html", _page(directory, rows, prompts, models, settings, large=large))


_STYLE = """
:root { color-scheme: light dark; --back: #fafafa; --text: #1c1c1c; --soft: #666; --card: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161618; --text: #ececec; --soft: #a0a0a0; --card: #222225; --line: #3a3a3e; }
}
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--back); color: var(--text);
       font: 16px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0.5rem 0; }
p { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
main { display: grid; gap: 0.75rem;
       grid-template-columns: repeat(auto-fill, minmax(min(9.5rem * var(--across), 45% * var(--across)), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure div { display: flex; gap: 2px; }
img { display: block; flex: 1; min-width: 0; aspect-ratio: 1; image-rendering: pixelated; }
img.large { image-rendering: auto; }
figcaption { padding: 0.5rem 0.6rem; font-size: 0.9rem; overflow-wrap: anywhere; }
"""


def _page(
    directory: Path,
    rows: Sequence[Sequence[Path]],
    prompts: Sequence[str],
    models: Sequence[str],
    settings: Mapping[str, Any],
    *,
    large: bool,
) -> str:
    """A page of all images with their prompts that requires no other file (unless they are very large together)."""
    embed = sum(file.stat().st_size for row in rows for file in row) <= _EMBED_BYTES
    style_class = ' class="large"' if large else ""
    figures = []
    for row, prompt in zip(rows, prompts, strict=True):
        text = html.escape(prompt)
        images = []
        for file, model in zip(row, models, strict=True):
            source = file.relative_to(directory).as_posix()
            title = html.escape(source if len(models) == 1 else f"{model}: {source}")
            if embed:
                source = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
            images.append(f'<img{style_class} loading="lazy" src="{source}" alt="{text}" title="{title}">')
        figures.append(f"<figure><div>{''.join(images)}</div><figcaption>{text}</figcaption></figure>")
    facts = html.escape(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()))
    if len(models) > 1:
        facts += "".join(
            f"<br>{side}: {html.escape(model)}" for side, model in zip(("left", "right"), models, strict=True)
        )
    number = len(rows) * len(models)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{number} images</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{number} {'image' if number == 1 else 'images'}</h1>\n<p>{facts}</p>\n"
        f'<main style="--across: {len(models)}">\n' + "\n".join(figures) + "\n</main>\n</body>\n</html>\n"
    )

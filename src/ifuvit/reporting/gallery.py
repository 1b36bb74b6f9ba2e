"""The page and the grid of a directory of `ifuvit generate`."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifuvit import results
from ifuvit.utils.files import atomic_path, write_text

# The page has its images inside as long as it stays small enough to be mailed; beyond that it refers to the files.
_EMBED_BYTES = 20_000_000
# More images than this do not fit into a grid that can be looked at.
_GRID_IMAGES = 400


def write_gallery(directory: Path) -> None:
    """Write index.html, all images with their prompts, and grid.png, the first ones, from the directory's manifest."""
    from PIL import Image

    from ifuvit.utils.image_grid import make_grid

    generated = results.from_file(directory / "manifest.json", results.GeneratedImages)
    files = [directory / image.file for image in generated.images]
    prompts = [image.prompt for image in generated.images]
    shown = [Image.open(file) for file in files[:_GRID_IMAGES]]
    grid = make_grid(shown, prompts[: len(shown)])
    with atomic_path(directory / "grid.png") as path:
        grid.save(path, format="PNG")
    settings = {"model": generated.model, **generated.sampling, "seed": generated.seed}
    if generated.verification:
        settings["verify"] = generated.verification
    if negative_prompt := generated.config.get("negative_prompt"):
        settings["negative_prompt"] = negative_prompt
    write_text(directory / "index.html", _page(files, prompts, settings, large=shown[0].width >= 200))


_STYLE = """
:root { color-scheme: light dark; --back: #fafafa; --text: #1c1c1c; --soft: #666; --card: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161618; --text: #ececec; --soft: #a0a0a0; --card: #222225; --line: #3a3a3e; }
}
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--back); color: var(--text);
       font: 16px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0.5rem 0; }
p { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 45%), 1fr)); gap: 0.75rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
img.large { image-rendering: auto; }
figcaption { padding: 0.5rem 0.6rem; font-size: 0.9rem; overflow-wrap: anywhere; }
"""


def _page(files: Sequence[Path], prompts: Sequence[str], settings: Mapping[str, Any], *, large: bool) -> str:
    """A page of all images with their prompts that requires no other file (unless they are very large together)."""
    embed = sum(path.stat().st_size for path in files) <= _EMBED_BYTES
    style_class = ' class="large"' if large else ""
    figures = []
    for path, prompt in zip(files, prompts, strict=True):
        source = path.name
        if embed:
            source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        text = html.escape(prompt)
        figures.append(
            f'<figure><img{style_class} loading="lazy" src="{source}" alt="{text}" title="{path.name}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{len(files)} images</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{len(files)} {'image' if len(files) == 1 else 'images'}</h1>\n<p>{html.escape(facts)}</p>\n<main>\n"
        + "\n".join(figures)
        + "\n</main>\n</body>\n</html>\n"
    )

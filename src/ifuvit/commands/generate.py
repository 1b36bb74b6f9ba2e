"""`ifuvit generate`."""

from typing import Any

from ifuvit import results
from ifuvit.diffusion.settings import PAPER_SETTINGS
from ifuvit.evaluation.generate import GenerateConfig, run
from ifuvit.reporting.gallery import write_gallery
from ifuvit.utils.command_line import parse

CONFIG = GenerateConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit generate")
    if config.exact:  # whose sampling settings are the defaults then
        config = parse(GenerateConfig(sampling=PAPER_SETTINGS), arguments, prog="ifuvit generate")
    out = run(config)
    write_gallery(out)
    generated = results.from_file(out / "manifest.json", results.GeneratedImages)
    if generated.verification:
        print(generated.verification)
    images = [{"file": out / one.file, "prompt": one.prompt, "verified": one.verified} for one in generated.images]
    print(f"{out / 'index.html'}: {len(list(out.glob('[0-9]*.png')))} images; the grid is {out / 'grid.png'}")
    return {"out": out, "page": out / "index.html", "grid": out / "grid.png", "images": images}

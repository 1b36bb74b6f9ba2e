"""The page of a directory of `ifuvit analyze`: findings, plots, and for attention the maps with a choice of level and head."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ifuvit import results
from ifuvit.reporting import attention_figures
from ifuvit.reporting.analysis_section import TITLES, analysis_plots, findings_table
from ifuvit.reporting.attention_figures import COLORS, ModelMaps
from ifuvit.reporting.plots import as_file
from ifuvit.reporting.tables import as_csv, slug
from ifuvit.reporting.templating import environment
from ifuvit.results import Analysis
from ifuvit.utils.files import atomic_path, package_version, write_text

# What the page holds of maps at most, in bytes; further prompts are in the arrays only.
_MAP_BYTES = 20_000_000


def write_page(directory: Path) -> Path:
    """Write index.html, plots/*.svg, findings.csv and, of attention, figures/*.png from the directory's analysis.json; return
    the page. It needs no other file.

    Raises:
        InputError: no analysis there.
    """
    analysis = results.from_file(directory / "analysis.json", Analysis)
    plots, findings = analysis_plots(analysis), findings_table(analysis)
    for plot in plots:
        write_text(directory / "plots" / f"{slug(plot.title)}.svg", as_file(plot))
    if findings.rows:
        write_text(directory / "findings.csv", as_csv(findings))
    viewer: list[dict[str, Any]] = []
    if analysis.action == "attention":
        viewer = _attention(directory, analysis)
    page = (
        environment()
        .get_template("analysis.html.j2")
        .render(
            title=TITLES[analysis.action],
            analysis=analysis,
            models=[f"{model.name} ({model.setting})" for model in analysis.models],
            findings=findings,
            plots=plots,
            viewer=json.dumps(viewer).replace("</", "<\\/"),
            left_out=len(analysis.prompts) - len(viewer) if viewer else 0,
            prompts=[one["prompt"] for one in viewer],
            colors=json.dumps(COLORS.tolist()),
            version=package_version(),
        )
    )
    write_text(directory / "index.html", page)
    return directory / "index.html"


def _attention(directory: Path, analysis: Analysis) -> list[dict[str, Any]]:
    """Write the figures of every prompt, and return what the page's script draws, as JSON values."""
    shown, size = [], 0
    for number, (prompt, models) in enumerate(zip(analysis.prompts, attention_figures.read_maps(directory, analysis))):
        if not models:
            continue
        words = sum(word in prompt.split() for word in models[0].words)
        figures = {"words": attention_figures.by_words(models, prompt)}
        if len(analysis.bands) > 1:
            figures["levels"] = attention_figures.by_levels(models, prompt, words)
        for name, figure in figures.items():
            with atomic_path(directory / "figures" / f"{number:04d}-{name}.png") as path:
                figure.save(path, format="PNG")
        size += sum(one.maps.size for one in models)
        if size <= _MAP_BYTES or not shown:
            shown.append({"prompt": prompt, "models": [_for_script(one) for one in models]})
    return shown


def _for_script(one: ModelMaps) -> dict[str, Any]:
    """A model's maps as bytes from 0 to 255, each with the value that 255 stands for; the heads' mean comes first."""
    maps = np.concatenate([one.maps.mean(2, keepdims=True), one.maps], 2)  # (levels, blocks, 1 + heads, words, S, S)
    there = [band for band in range(len(maps)) if np.isfinite(maps[band]).all()]
    maps = maps[there]
    largest = maps.max((-2, -1))
    scaled = np.divide(maps, largest[..., None, None], out=np.zeros_like(maps), where=largest[..., None, None] > 0)
    names = [f"{low:g} to {high:g}" for low, high in one.bands] + ["all"]
    return {
        "title": one.title,
        "image": _uri(one.image),
        "blocks": list(one.blocks),
        "words": list(one.words),
        "levels": [names[band] for band in there],
        "heads": maps.shape[2] - 1,
        "side": maps.shape[-1],
        "border": one.border,
        "grid": one.grid,
        "means": [float(f"{value:.4g}") for value in maps.mean((-2, -1)).reshape(-1)],
        "largest": [float(f"{value:.4g}") for value in largest.reshape(-1)],
        "maps": base64.b64encode(np.rint(255 * scaled).astype(np.uint8).tobytes()).decode(),
    }


def _uri(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, format="PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()

"""Plots, tables and figures of `ifuvit analyze`."""

import example_results
import numpy as np
import pytest
from PIL import Image

from ifuvit.reporting.analysis_section import analysis_plots, position
from ifuvit.reporting.attention_figures import ModelMaps, by_words, colored
from ifuvit.reporting.collection import collect


@pytest.fixture(scope="module")
def analyses(tmp_path_factory):
    directory = tmp_path_factory.mktemp("analyses")
    example_results.write_analyses(directory)
    return {one.result.action: one.result for one in collect([directory]).analyses}


def test_positions() -> None:
    assert [
        position(block, 6) for block in ("in_blocks.0", "in_blocks.2", "mid_block", "out_blocks.0", "out_blocks.2")
    ] == [*(0, 2, 3, 4, 6)]


def test_every_action_has_plots(analyses) -> None:
    titles = {action: [plot.title for plot in analysis_plots(one)] for action, one in analyses.items()}
    assert set(titles) == {"attention", "rank", "ablate", "probe", "information"}
    assert {"Share of attention: early", "Focus of the words' maps"} <= set(titles["attention"])
    assert "Sum of singular values: all tokens, raw" in titles["rank"]
    assert "Controls, sum of singular values, all tokens, raw: early" in titles["rank"]
    assert "Change of the prediction without the caption in one block" in titles["ablate"]
    assert titles["probe"][0] == "Linear probe: kind" and titles["information"] == ["Loss with wrong caption: count"]
    both = next(p for p in analysis_plots(analyses["rank"]) if p.title == "Sum of singular values: all tokens, raw")
    assert [name for name, _ in both.legend] == ["early", "intermediate"]
    assert "early: 7 points, from 0.1 at 0" in both.svg and "intermediate: 3 points, from 0.2 at 2" in both.svg


def test_the_same_block_has_the_same_column() -> None:
    """The bright patch of an intermediate model's one block lies below the second of an early model's three."""

    def maps(name: str, blocks: tuple[str, ...]) -> ModelMaps:
        values = np.full((2, len(blocks), 1, 1, 4, 4), 0.01)
        values[..., 0, 0] = 1
        return ModelMaps(
            name=name,
            title=name,
            image=Image.new("RGB", (16, 16), (128, 128, 128)),
            blocks=blocks,
            words=("sheep",),
            maps=values,
            bands=((0.0, 1.0),),
            border=0,
            grid=4,
        )

    early = maps("early", ("in_blocks.0", "mid_block", "out_blocks.0"))
    figure = np.asarray(by_words([early, maps("intermediate", ("mid_block",))], "sheep"), int)
    bright = (figure[..., 0] > 200) & (figure[..., 2] < 190) & (figure[..., 1] > 190)
    rows = np.flatnonzero(bright.any(1))
    below = rows > (rows[0] + rows[-1]) / 2
    upper, lower = (set(np.flatnonzero(bright[part].any(0)).tolist()) for part in (rows[~below], rows[below]))
    assert lower < upper and len(upper) == 3 * len(lower) and min(upper) < min(lower) and max(lower) < max(upper)


def test_colors_are_in_order() -> None:
    luminance = colored(np.linspace(0, 1, 20)) @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance) > 0).all()

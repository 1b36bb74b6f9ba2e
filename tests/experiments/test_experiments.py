"""The experiments as values: the paper's settings, found again among the presets at every size."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from ifuvit.experiments import EXPERIMENTS, SCALES
from ifuvit.experiments.definition import Equal
from ifuvit.experiments.matching import matched
from ifuvit.model.flops import cost_of, forward_flops, parameters
from ifuvit.model.presets import presets

SETTINGS = {setting.name: setting for experiment in EXPERIMENTS.values() for setting in experiment.settings}


@pytest.mark.parametrize("prefix", ["", "openmoji-"])
@pytest.mark.parametrize("name", ["concat-early", "concat-intermediate", "cross-early", "cross-intermediate"])
def test_table_1_settings_are_the_presets(name: str, prefix: str) -> None:
    for base in ("concat-early", "cross-intermediate"):
        assert SETTINGS[name].at(presets[prefix + base]) == presets[prefix + name]


def test_ablation_covers_both_conditionings_as_the_paper_writes_them() -> None:
    settings = EXPERIMENTS["ablation"].settings
    for conditioning in ("concat", "cross"):
        written = {(s.n_text, s.n_image) for s in settings if s.conditioning == conditioning}
        assert written == {(0, 0), (1, 0), (0, 4), (1, 4)}
    middle = SETTINGS["cross-middle"]
    assert middle.at(presets["openmoji-concat-early"]).n_image == 2  # of depth 6, as 4 of 12
    assert middle.at(presets["cross-early"]).n_image == 4


def test_text_is_fused_at_three_places_at_equal_flops() -> None:
    settings = EXPERIMENTS["position"].settings
    for base in ("cross-intermediate", "openmoji-cross-intermediate"):
        costs = [cost_of(setting.at(presets[base])) for setting in settings]
        assert len({cost["gflops"]["with_attention"] for cost in costs}) == 1
        assert len({cost["parameters"] for cost in costs}) == 1
    assert [setting.at(presets["cross-early"]).n_image for setting in settings] == [(0, 6), (3, 3), (6, 0)]
    assert [setting.at(presets["openmoji-cross-early"]).n_image for setting in settings] == [(0, 3), (1, 2), (3, 0)]
    assert [setting.fusion for setting in settings] == ["first blocks only", "intermediate", "last blocks only"]


@pytest.mark.parametrize(
    ("setting", "published"),
    [
        ("concat-free-end", "ddt"),
        ("separate-early", "pixart"),
        ("separate-joint-early", "prx"),
        ("mmdit-early", "sd3"),
        ("mmdit-double-first", "flux"),
        ("concat-early", "dit-air"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "openmoji-"])
def test_the_atlas_has_the_published_placements(setting: str, published: str, prefix: str) -> None:
    mine, theirs = SETTINGS[setting].at(presets[f"{prefix}cross-early"]), presets[prefix + published]
    for field in ("conditioning", "n_text", "image_only", "num_fused", "double_blocks"):
        assert getattr(mine, field) == getattr(theirs, field), field
    if mine.conditioning == "cross-separate":
        assert mine.cross_attention == theirs.cross_attention


@pytest.mark.parametrize("setting", ["concat-early", "mmdit-early", "adaln-early"])
@pytest.mark.parametrize("equal", ["flops", "parameters"])
def test_settings_of_equal_cost(setting: str, equal: Equal) -> None:
    """The nearest width: one step of heads to either side is farther."""
    base = presets["openmoji-cross-intermediate"]
    model = matched(SETTINGS[setting].at(base), base, equal)
    assert replace(model, embed_dim=base.embed_dim) == SETTINGS[setting].at(base)

    def ratio(width: int) -> float:
        at = replace(model, embed_dim=width)
        costs = [forward_flops(one).total if equal == "flops" else parameters(one) for one in (at, base)]
        return max(costs) / min(costs)

    own = ratio(model.embed_dim)
    assert own < 1.05 and own < min(ratio(model.embed_dim + 6), ratio(model.embed_dim - 6))
    assert matched(base, base, equal) == base == matched(base, presets["openmoji-concat-early"], "width")


def test_a_setting_changes_nothing_but_where_text_enters() -> None:
    base = replace(presets["cross-early"], embed_dim=64, cross_attention="joint", mask_padding=True)
    model = SETTINGS["cross-middle"].at(base)
    assert replace(model, conditioning=base.conditioning, n_text=base.n_text, n_image=base.n_image) == base


def test_one_name_is_one_setting_in_all_experiments() -> None:
    """Experiments share runs by the settings' names."""
    for experiment in EXPERIMENTS.values():
        for setting in experiment.settings:
            assert SETTINGS[setting.name] == setting
        assert len({setting.name for setting in experiment.settings}) == len(experiment.settings)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_it_is(name: str) -> None:
    experiment = EXPERIMENTS[name]
    module = importlib.import_module(f"ifuvit.experiments.{name}")
    for part in ("Reference:", "Command:", f"ifuvit experiment {name} --scale openmoji", "Cost:", "Expected"):
        assert part in (module.__doc__ or ""), part
    names = {setting.name for setting in experiment.settings}
    assert set(experiment.expected) <= names
    assert {claim.better for claim in experiment.claims} | {claim.worse for claim in experiment.claims} <= names


def test_the_papers_numbers_do_not_contradict_its_claims() -> None:
    of = {"distance": ("FID-30K", -1), "alignment": ("CLIP score", 1)}
    for claim in EXPERIMENTS["table1"].claims:
        if claim.by in of:
            metric, sign = of[claim.by]
            expected = EXPERIMENTS["table1"].expected
            assert sign * (expected[claim.better][metric] - expected[claim.worse][metric]) > 0


@pytest.mark.parametrize("name", SCALES)
def test_scales_fit_their_presets(name: str) -> None:
    from ifuvit.training.config import default_config

    scale = SCALES[name]
    model = replace(default_config(scale.preset).recipe.model, **scale.model)
    default_config(scale.preset, model=model, evaluate_data=Path("val"), **scale.recipe)
    for setting in SETTINGS.values():
        front, back = setting.at(model).image_only
        whole = (setting.n_image,) * 2 if isinstance(setting.n_image, int) else setting.n_image
        assert front == whole[0] * model.depth // 12 and front + back == sum(whole) * model.depth // 12

"""Sampling settings: their ranges, JSON, changes by keyword, and the flags of every command that samples."""

import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
from tyro.conf import OmitArgPrefixes

from ifuvit.diffusion.objective import DDPM
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, PAPER_EVALUATION_SETTINGS, PAPER_SETTINGS, SamplingSettings
from ifuvit.utils.command_line import parse
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Config:
    """A command that samples."""

    out: str = "here"
    """Where to."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = DEFAULT_SETTINGS


CHANGED = SamplingSettings(
    solver="unipc", steps=7, guidance_scale=1.5, guidance_interval=(0.2, 0.8), initial_latents="noise"
)


def test_json_round_trip():
    assert from_dict(SamplingSettings, to_dict(CHANGED)) == CHANGED
    nested = Config(sampling=CHANGED)
    assert to_dict(nested)["sampling"]["guidance_interval"] == [0.2, 0.8]
    assert from_dict(Config, to_dict(nested)) == nested


def test_flags_are_flat():
    arguments = "--solver unipc --steps 7 --guidance-scale 1.5 --guidance-interval 0.2 0.8 --initial-latents noise"
    assert parse(Config, arguments.split(), prog="x").sampling == CHANGED
    assert parse(Config(sampling=CHANGED), [], prog="x").sampling == CHANGED


def test_the_papers_settings():
    assert (PAPER_SETTINGS.solver, PAPER_SETTINGS.steps, PAPER_SETTINGS.guidance_scale) == ("auto", 50, 4.0)
    assert DDPM().resolve_solver(PAPER_SETTINGS.solver) == "dpm++"
    assert PAPER_SETTINGS.initial_latents == "noise" and PAPER_SETTINGS.guidance_interval == (0, 1)
    assert PAPER_EVALUATION_SETTINGS == PAPER_SETTINGS.changed(guidance_scale=2.0)


def test_changes_by_keyword():
    assert DEFAULT_SETTINGS.changed(num_inference_steps=7).steps == DEFAULT_SETTINGS.changed(steps=7).steps == 7
    changes = {field.name: getattr(CHANGED, field.name) for field in fields(CHANGED)}
    assert DEFAULT_SETTINGS.changed(**changes) == CHANGED and DEFAULT_SETTINGS.changed() == DEFAULT_SETTINGS
    assert CHANGED.changed(steps=15).differences(CHANGED) == {"steps": 15} and CHANGED.differences(CHANGED) == {}
    with pytest.raises(
        InputError, match="^unknown sampling setting 'sclae'; the settings are solver, steps, guid[^\n]*$"
    ):
        DEFAULT_SETTINGS.changed(sclae=2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "magic"}, "--solver magic: unknown; the solvers are auto, dpm++, "),
        ({"steps": 0}, "--steps 0: must be from 1 to 1000"),
        ({"steps": 1001}, "--steps 1001"),
        ({"guidance_scale": float("nan")}, "--guidance-scale nan: must be a finite number"),
        ({"guidance_scale": float("inf")}, "--guidance-scale inf"),
        ({"guidance_interval": (0.5, 0.4)}, "--guidance-interval 0.5 0.4: give shares of the noise range"),
        ({"guidance_interval": (0.0, 1.1)}, "--guidance-interval 0 1.1"),
        ({"guidance_interval": (float("nan"), 1.0)}, "--guidance-interval nan 1"),
        ({"initial_latents": "red"}, "--initial-latents red: give one of data-mean, noise"),
    ],
)
def test_values_outside_their_range(change, message):
    with pytest.raises(InputError) as error:
        DEFAULT_SETTINGS.changed(**change)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_imports_no_torch():
    code = "import sys, ifuvit.diffusion.settings; assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

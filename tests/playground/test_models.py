"""The process of the models."""

import os
import signal

import pytest

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.pipeline import Pipeline
from ifuvit.playground.messages import Request
from ifuvit.playground.models import ModelProcess, Models
from ifuvit.utils.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

REQUEST = Request(prompt="three sheep", seed=5, images=2, settings=SamplingSettings(steps=3))


@pytest.fixture(scope="module")
def models():
    with ModelProcess("cpu") as process:
        yield process


def test_it_answers_as_models_in_this_process_do(models, model):
    assert list(models.ask([model])) == []
    found, wanted = list(models.ask([model, model], REQUEST)), list(Models("cpu").ask([model, model], REQUEST))
    for answers in (found, wanted):
        places = [place for place, _ in answers]
        assert places == sorted(places) and set(places) == {0, 1}
    pixels = [
        image.tobytes() for image in Pipeline.from_pretrained(model)([REQUEST.prompt] * 2, REQUEST.settings, seed=5)
    ]
    for place in (0, 1):
        here, there = ([one for at, one in answers if at == place][-1] for answers in (wanted, found))
        assert here.finished and there.finished and not isinstance(there.attention, str)
        assert [image.tobytes() for image in here.images] == [image.tobytes() for image in there.images] == pixels
        assert there.attention.tokens == here.attention.tokens


def test_a_closed_iterator_stops_the_sampling(models, model):
    growing = models.ask([model], Request(prompt="a", seed=0, images=1, settings=SamplingSettings(steps=1000)))
    _, first = next(growing)
    growing.close()
    assert not first.finished and first.step < 100
    assert [one.finished for _, one in models.ask([model], REQUEST)][-1]


def test_errors_come_out_and_leave_it_alive(models, model):
    with pytest.raises(InputError, match="no model 'nowhere'"):
        list(models.ask(["nowhere"]))
    settings = SamplingSettings(steps=2, solver="heun")
    with pytest.raises(InputError, match="solver"):
        list(models.ask([model], Request(prompt="a", seed=0, images=1, settings=settings)))
    assert list(models.ask([model])) == []


def test_one_that_was_killed(models, model):
    os.kill(models._process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="has ended"):
        list(models.ask([model], REQUEST))

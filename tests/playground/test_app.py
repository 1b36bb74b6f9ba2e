"""The page: what the command refuses, and the server asked as a browser asks it."""

import re
import socket
import subprocess
import sys
import types

import pytest

from ifuvit.playground import app
from ifuvit.playground.app import Shown, make_app, make_page, make_request
from ifuvit.playground.config import PlaygroundConfig
from ifuvit.playground.models import Models
from ifuvit.utils.errors import InputError


def test_without_gradio(refusal, monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert refusal("playground").strip().endswith("not installed: pip install 'ifuvit[playground]'")


def test_no_such_model(refusal):
    assert "no model 'nowhere'" in refusal("playground", "--model", "openmoji-cross-intermediate", "nowhere")


def test_a_port_that_is_taken(refusal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal("playground", "--port", port)
    assert f"--port {port}: cannot listen there (Address already in use); give another --port" in line


@pytest.mark.slow
def test_what_cannot_be_loaded_ends_the_command(ifuvit):
    """It is found in the other process, when the page is there already."""
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ran = ifuvit("playground", "--port", port, "--device", "nowhere")
    assert ran.status == 2 and ran.out.startswith(f"the playground is at http://127.0.0.1:{port}/")
    assert ran.err.startswith("ifuvit: --device nowhere: cannot be used here") and ran.err.count("\n") == 1


def test_the_page_needs_no_torch():
    """It is imported in another process meanwhile, so the page is there in half the time."""
    pytest.importorskip("gradio")
    code = (
        "import sys; from pathlib import Path; from ifuvit.playground import app; "
        "from ifuvit.playground.config import PlaygroundConfig; "
        "app.make_app(app.make_page(PlaygroundConfig(), ('a',), None, Path())); "
        "print({'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--model", "a", "a"), "give each model once"),
        (("--port", "0"), "--port"),
        (("--max-steps", "2000"), "--max-steps"),
        (("--max-images", "0"), "--max-images"),
    ],
)
def test_options(refusal, options, what):
    assert what in refusal("playground", *options)


def test_fields_of_the_page():
    request = make_request(" a  b ", "", 3.0, 2, 10, 2.5, 0.1, 0.9, "auto")
    assert (request.prompt, request.seed, request.images) == ("a b", 3, 2)
    assert (request.settings.steps, request.settings.guidance_interval) == (10, (0.1, 0.9))
    with pytest.raises(InputError, match="the seed is empty"):
        make_request("a", "", None, 1, 10, 4, 0, 1, "auto")
    with pytest.raises(InputError, match="0 <= low <= high <= 1"):
        make_request("a", "", 0, 1, 10, 4, 0.9, 0.1, "auto")


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    """The page with the tiny model."""
    pytest.importorskip("gradio")
    config = PlaygroundConfig(model=(model,), max_steps=5)
    return make_page(config, (model,), Models("cpu"), tmp_path_factory.mktemp("archives"))


def test_the_page_is_served_and_loads_nothing_from_elsewhere(page):
    from fastapi.testclient import TestClient

    answer = TestClient(make_app(page)).get("/")
    assert answer.status_code == 200 and "ifuvit playground" in answer.text
    assert not re.search(r'<(?:script|link)[^>]*(?:src|href)="https?://', answer.text)
    assert "fonts.googleapis" not in answer.text and page.analytics_enabled is False


def test_the_page_generates_and_says_what_it_does_not_take(page, model):
    """What a click on Generate calls, with the values of the fields."""
    import gradio

    (run,) = [one.fn for one in page.fns.values() if one.name == "run"]
    fields = {"prompt": "three sheep", "negative": "", "seed": 1, "count": 1, "steps": 2, "scale": 2, "low": 0}
    fields |= {"high": 1, "solver": "auto", "left": model, "right": "none"}
    session = types.SimpleNamespace(session_hash="visitor")
    *_, last = run(Shown(), *fields.values(), session)
    (shown,) = [value for value in last.values() if isinstance(value, Shown)]
    assert len(shown.images[0]) == 1 and shown.images[1] == [] and len(shown.history) == 1
    assert shown.history[0].facts["prompt"] == "three sheep" and "sheep" in str(shown.attention[0])
    for wrong, what in (
        ({"prompt": ""}, "the prompt is empty"),
        ({"steps": 6}, "must be from 1 to 5"),
        ({"left": "/etc"}, "not one of this page's"),
        ({"low": 0.9, "high": 0.1}, "0 <= low <= high <= 1"),
    ):
        with pytest.raises(gradio.Error, match=what):
            list(run(Shown(), *(fields | wrong).values(), session))

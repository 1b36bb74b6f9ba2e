"""The page: what the command refuses, and the server asked as a browser asks it."""

import socket
import threading
import time

import pytest

from ifuvit.playground import app
from ifuvit.playground.app import Models, make_app, make_page, make_request
from ifuvit.playground.config import PlaygroundConfig
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


@pytest.fixture
def served(model, tmp_path, monkeypatch):
    """The address of a page with the tiny model."""
    pytest.importorskip("gradio")
    import torch
    import uvicorn

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    config = PlaygroundConfig(model=(model,), max_steps=5)
    listening = socket.create_server(("127.0.0.1", 0))
    page = make_page(config, (model,), Models(torch.device("cpu")), tmp_path)
    server = uvicorn.Server(uvicorn.Config(make_app(page), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 120
    while not server.started and time.monotonic() < until:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.multiprocess  # so that .ci/run takes it, which leaves out what is only slow
def test_the_server_generates_and_says_what_it_does_not_take(served, model):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(served, verbose=False)
    fields = {"prompt": "three sheep", "negative": "", "seed": 1, "count": 1, "steps": 2, "scale": 2}
    fields |= {"low": 0, "high": 1, "solver": "auto", "left": model, "right": "none"}
    updates = client.submit(**fields, api_name="/run")
    last = list(updates)[-1]
    assert any("done" in str(one) for update in updates.outputs() for one in update) and last is not None
    for wrong, what in (
        ({"prompt": ""}, "the prompt is empty"),
        ({"steps": 6}, "must be from 1 to 5"),
        ({"left": "/etc"}, "not one of this page's"),
    ):
        with pytest.raises((AppError, ValueError), match=what):
            client.predict(**{**fields, **wrong}, api_name="/run")

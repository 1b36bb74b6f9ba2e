"""examples/serve.py: what clients get, together and alone, and what is refused."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serve_load import SERVE, ask, ask_at_once, generate, server

from ifuvit import Pipeline

pytest.importorskip("litserve")
pytest.importorskip("prometheus_client")

CLIENTS = 50
WORDS = "one two three four sheep bus apples on grass left".split()


@pytest.fixture(scope="module")
def port(model: str) -> Iterator[int]:
    with server("--model", model, "--max-batch", 8) as port:
        yield port


def lines(*arguments: object) -> list[str]:
    """What the server says on standard error when it does not start."""
    done = subprocess.run([sys.executable, SERVE, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and not done.stdout
    return done.stderr.splitlines()


@pytest.mark.slow
def test_50_clients_get_what_each_gets_alone(port: int, model: str) -> None:
    """Some are refused, some only by the process that generates, in batches with good ones; settings differ too."""
    requests: list[list[dict]] = [
        [{"prompts": [f"{WORDS[n % 10]} {WORDS[n // 10]}"], "seed": 1000 + n, "steps": 2 + n % 2, "format": "png"}]
        for n in range(CLIENTS)
    ]
    requests += [[{"prompts": ["two sheep " * 9]}, {"prompts": []}]] * 5
    answers, _ = ask_at_once(port, requests)
    assert [answer.status for of_one in answers for answer in of_one] == [200] * CLIENTS + [422] * 10
    assert json.loads(answers[-1][0].body) == {"error": "prompts: one is longer than the model's 8 tokens"}
    pipeline = Pipeline.from_pretrained(model)
    for (request,), (answer,) in zip(requests[:CLIENTS], answers):
        [image] = pipeline(request["prompts"], seed=request["seed"], steps=request["steps"])
        assert abs(answer.images[0] - np.asarray(image).astype(int)).max() <= 1, request
    assert max(int(of_one[0].headers["x-images-together"]) for of_one in answers[:CLIENTS]) > 1

    metrics = ask(port, "GET", "/metrics").body.decode()
    assert f'ifuvit_request_seconds_count{{status="200"}} {CLIENTS}.0' in metrics
    assert "ifuvit_requests_waiting 0.0" in metrics


@pytest.mark.slow
def test_json_has_an_image_for_each_prompt(port: int, model: str) -> None:
    prompts = ["two sheep", "a bus", "two sheep"]
    answer = generate(port, prompts=prompts, seed=5, steps=2, guidance_scale=2)
    assert [image["prompt"] for image in json.loads(answer.body)["images"]] == prompts
    pipeline = Pipeline.from_pretrained(model)
    for prompt, image in zip(prompts, answer.images):
        [alone] = pipeline([prompt], seed=5, steps=2, guidance_scale=2.0)
        assert abs(image - np.asarray(alone).astype(int)).max() <= 1
    assert ask(port, "GET", "/health").body == b"ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        ('{"prompts": [', 422, "request: JSON decode error"),
        ("[]", 422, "request: Input should be a valid dictionary"),
        ('{"prompts": [" "]}', 422, "prompts.0: String should have at least 1 character"),
        ('{"prompts": ["\\ud800"]}', 422, "prompts.0: Input should be a valid string"),
        (f'{{"prompts": ["{"a" * 301}"]}}', 422, "prompts.0: String should have at most 300"),
        (json.dumps({"prompts": ["a bus"] * 9}), 422, "prompts: List should have at most 8"),
        ('{"prompts": ["a bus"], "steps": 51}', 422, "steps: Input should be less than or equal to 50"),
        ('{"prompts": ["a bus"], "guidance_scale": NaN}', 422, "guidance_scale: Input should be"),
        ('{"prompts": ["a bus"], "seed": -1}', 422, "seed: Input should be greater"),
        ('{"prompts": ["a bus"], "sed": 1}', 422, "sed: Extra inputs are not permitted"),
        ('{"prompts": ["a bus", "sheep"], "format": "png"}', 422, "request: format png is one image"),
        (f'{{"prompts": ["{"a" * 70_000}"]}}', 413, "Payload too large"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests(port: int, request_body: str, status: int, message: str) -> None:
    answer = ask(port, "POST", "/generate", request_body)
    assert answer.status == status and list(json.loads(answer.body)) == ["error"]
    assert json.loads(answer.body)["error"].startswith(message) and b"\n" not in answer.body


@pytest.mark.long
@pytest.mark.slow
def test_too_many_waiting_requests_are_told_to_come_later(model: str) -> None:
    with server("--model", model, "--max-batch", 2, "--max-waiting", 3) as port:
        answers, _ = ask_at_once(port, [[{"prompts": ["a bus"], "steps": 50}]] * 20)
        statuses = [answer.status for [answer] in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 3
        assert generate(port, prompts=["a bus"]).status == 200


@pytest.mark.long
@pytest.mark.slow
def test_mistakes_when_it_starts(model: str, tmp_path: Path) -> None:
    [line] = lines("--model", tmp_path / "nothing")
    assert line.startswith("serve.py: ") and "no model" in line
    [line] = lines("--model", model, "--port", 80)
    assert line == "serve.py: --port takes 1024 to 65535, --max-batch 2 and more"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        [line] = lines("--model", model, "--port", number)
    assert line.startswith(f"serve.py: --host 127.0.0.1 --port {number}: ") and "in use" in line


def test_engine_not_installed(tmp_path: Path) -> None:
    (tmp_path / "litserve.py").write_text("raise ModuleNotFoundError('gone', name='litserve')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, SERVE], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (
        2,
        "serve.py: litserve is not installed; pip install 'ifuvit[serve]'\n",
    )

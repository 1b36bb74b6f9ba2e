"""Whether 50 clients who ask examples/serve.py for images at once lose any, and whether each gets the image that `ifuvit.Pipeline`
generates from its prompt and seed alone. To be run by hand:

    python tools/serve_load.py [RESULT.json]

Clients are threads; each sends its next request as soon as the last one is answered. Others send requests that must be refused
meanwhile, some of which share a batch with good ones.
"""

import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from ifuvit import Pipeline
from ifuvit.shipped import DEFAULT_MODEL
from ifuvit.utils.files import manifest, now, write_json

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
CLIENTS, REQUESTS, STEPS, MAX_BATCH = 50, 2, 15, 16
NUMBERS, KINDS, GROUNDS = (
    ("one", "two", "three", "four", "five"),
    ("sheep", "bus", "apple", "person", "dog"),
    ("grass", "sand"),
)


def prompt_of(client: int) -> str:
    """Another one for each of 50 clients."""
    return f"{NUMBERS[client % 5]} {KINDS[client // 5 % 5]} on {GROUNDS[client // 25 % 2]}"


@contextmanager
def server(*arguments: object) -> Iterator[int]:
    """The port of a server that is ready; it ends by SIGTERM, with all its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, SERVE, "--port", port, *arguments]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(list(map(str, command)), stdout=log, stderr=log) as process,
    ):
        try:
            while ask(port, "GET", "/health").status != 200:
                log.seek(0)
                assert process.poll() is None, log.read()
                time.sleep(0.2)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> list[np.ndarray]:
        """(H, W, 3) int each."""
        files = [self.body]
        if self.headers["content-type"] == "application/json":
            files = [base64.b64decode(image["png"]) for image in json.loads(self.body)["images"]]
        return [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in files]


def ask(port: int, method: str, path: str, request: object = None) -> Answer:
    """The server's answer; status 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        body = request if isinstance(request, str) or request is None else json.dumps(request)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})
    except (http.client.HTTPException, OSError):
        return Answer(0)
    finally:
        connection.close()


def generate(port: int, **request: object) -> Answer:
    return ask(port, "POST", "/generate", request)


def ask_at_once(port: int, requests: Sequence[Sequence[dict]]) -> tuple[list[list[Answer]], list[list[float]]]:
    """The answers to every client's requests, one after the other, and the seconds that each took."""
    begin = threading.Barrier(len(requests))
    answers: list[list[Answer]] = [[] for _ in requests]
    seconds: list[list[float]] = [[] for _ in requests]

    def client(number: int) -> None:
        begin.wait()
        for request in requests[number]:
            start = time.perf_counter()
            answers[number].append(generate(port, **request))
            seconds[number].append(time.perf_counter() - start)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, seconds


def processor_seconds() -> float:
    """Of the server's processes, so far. Unlike time on a clock they hardly depend on what else the machine does."""
    return sum(sum(process.cpu_times()[:2]) for process in psutil.Process().children(recursive=True))


def main(result: Path | None) -> None:
    """Measure, print, and write the result if a file is given."""
    started, load = now(), os.getloadavg()[0]
    asked = [
        [
            {"prompts": [prompt_of(client)], "seed": client * REQUESTS + turn, "steps": STEPS, "format": "png"}
            for turn in range(REQUESTS)
        ]
        for client in range(CLIENTS)
    ]
    wrong = [[{"prompts": ["word " * 50]}, {"prompts": [""]}, {"prompts": ["a bus"], "steps": 0}] for _ in range(5)]
    flat = [request for requests in asked for request in requests]
    with server("--max-batch", MAX_BATCH) as port:
        generate(port, prompts=["a bus"])  # the first image takes longer
        begun, used = time.perf_counter(), processor_seconds()
        answers, seconds = ask_at_once(port, [*asked, *wrong])
        served, used = time.perf_counter() - begun, processor_seconds() - used
    good = [answer for answers_of_one in answers[:CLIENTS] for answer in answers_of_one]
    refused = [answer.status for answers_of_one in answers[CLIENTS:] for answer in answers_of_one]

    pipeline = Pipeline.from_pretrained(DEFAULT_MODEL)
    pipeline(["a bus"])
    begun = time.process_time()
    alone = [pipeline(r["prompts"], seed=r["seed"], steps=STEPS)[0] for r in flat]
    one_by_one = time.process_time() - begun
    begun = time.process_time()
    prompts, seeds = [r["prompts"][0] for r in flat], [r["seed"] for r in flat]
    pipeline(prompts, seed=seeds, steps=STEPS, batch_size=MAX_BATCH)
    in_batches = time.process_time() - begun

    answered = [(a.images[0], np.asarray(i).astype(int)) for a, i in zip(good, alone, strict=True) if a.status == 200]
    differences = [int(abs(served_image - image).max()) for served_image, image in answered]
    waited = sorted(s for of_one in seconds[:CLIENTS] for s in of_one)
    facts = {
        "clients_at_once": CLIENTS,
        "requests": len(flat),
        "lost": len(flat) - len(answered),
        "images_with_a_difference_above_1_of_255": sum(difference > 1 for difference in differences),
        "largest_difference_of_255": max(differences),
        "wrong_requests": len(refused),
        "wrong_requests_refused_with_422": refused.count(422),
        "mean_images_together": statistics.mean(int(a.headers["x-images-together"]) for a in good if a.status == 200),
        "seconds": served,
        "median_wait_seconds": statistics.median(waited),
        "longest_wait_seconds": waited[-1],
        "processor_seconds_an_image": used / len(flat),
        "processor_time_over_that_of_pipeline_in_batches": used / in_batches,
        "processor_time_over_that_of_pipeline_one_by_one": used / one_by_one,
        "load_before": load,
    }
    for name, value in facts.items():
        print(f"{name:50} {value:,.2f}" if isinstance(value, float) else f"{name:50} {value}")
    if result is not None:
        config = {"model": DEFAULT_MODEL, "steps": STEPS, "max_batch": MAX_BATCH}
        write_json(result, manifest("serve load", config, started=started, **facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

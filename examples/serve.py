"""Serve a model over HTTP with LitServe: prompts in, PNG or JSON out. docs/serving.md has requests, limits and figures.

pip install -c constraints.txt '.[serve]'
python examples/serve.py --model openmoji-cross-intermediate
curl --json '{"prompts": ["three sheep on grass"], "seed": 1, "format": "png"}' localhost:8000/generate -o sheep.png
"""

import argparse
import base64
import io
import multiprocessing
import signal
import socket
import sys
import time
from typing import Annotated, Any, Literal

try:
    import litserve
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from prometheus_client import CONTENT_TYPE_LATEST, Gauge, Histogram, generate_latest
    from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
    from starlette.exceptions import HTTPException
except ImportError as error:
    print(f"serve.py: {error.name} is not installed; pip install 'ifuvit[serve]'", file=sys.stderr)
    sys.exit(2)

from ifuvit import Pipeline
from ifuvit.shipped import DEFAULT_MODEL
from ifuvit.utils.errors import InputError

PATH = "/generate"


class ImageRequest(BaseModel):
    """What a client may ask for, and the limits. Each image depends on its prompt and these numbers alone."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompts: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]] = Field(
        min_length=1, max_length=8
    )
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(15, ge=1, le=50)
    guidance_scale: float = Field(4.0, ge=1, le=20)
    format: Literal["json", "png"] = "json"

    @model_validator(mode="after")
    def _one_png(self) -> "ImageRequest":
        if self.format == "png" and len(self.prompts) > 1:
            raise ValueError(f"format png is one image, and there are {len(self.prompts)} prompts; ask for json")
        return self


class ImageAPI(litserve.LitAPI):
    """Runs in a process of its own, one per GPU. FastAPI has checked what comes here."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(api_path=PATH, **options)
        self.model = model

    def setup(self, device: str) -> None:
        self.pipeline = Pipeline.from_pretrained(self.model, device=device)

    def decode_request(self, request: ImageRequest) -> ImageRequest:
        return request

    def predict(self, requests: list[ImageRequest]) -> list[Response]:
        """Requests with the same settings are one call of the pipeline; one that fails is answered by itself."""
        answers: dict[int, Response] = {}
        groups: dict[tuple[int, float], list[int]] = {}
        encoder = self.pipeline.text_encoder
        for number, request in enumerate(requests):
            if encoder.tokenize(request.prompts).truncated:
                answers[number] = refusal(422, f"prompts: one is longer than the model's {encoder.max_tokens} tokens")
            else:
                groups.setdefault((request.steps, request.guidance_scale), []).append(number)
        for (steps, scale), members in groups.items():
            asked = [(prompt, requests[number].seed) for number in members for prompt in requests[number].prompts]
            prompts, seeds = zip(*asked)
            try:
                images = iter(self.pipeline(prompts, seed=seeds, steps=steps, guidance_scale=scale))
                answers |= {number: answer(requests[number], images, len(asked)) for number in members}
            except InputError as error:
                answers |= {number: refusal(422, str(error)) for number in members}
        return [answers[number] for number in range(len(requests))]


def answer(request: ImageRequest, images: Any, together: int) -> Response:
    """The request's images, taken from those of all requests; the header says how many were generated together."""
    encoded = []
    for _, image in zip(request.prompts, images):
        file = io.BytesIO()
        image.save(file, format="PNG")
        encoded.append(file.getvalue())
    headers = {"X-Images-Together": str(together)}
    if request.format == "png":
        return Response(encoded[0], media_type="image/png", headers=headers)
    texts = [base64.b64encode(image).decode() for image in encoded]
    return JSONResponse(
        {"images": [{"prompt": prompt, "png": text} for prompt, text in zip(request.prompts, texts)]}, headers=headers
    )


def refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def observe(app: FastAPI, max_waiting: int) -> None:
    """Mistakes as one line of JSON, a limit on waiting requests, and /metrics for Prometheus."""
    seconds = Histogram(
        "ifuvit_request_seconds", "Time to the answer", ["status"], buckets=[2**i / 16 for i in range(14)]
    )
    together = Histogram("ifuvit_images_together", "Images generated together", buckets=[2**i for i in range(9)])
    waiting = Gauge("ifuvit_requests_waiting", "Requests without an answer yet")
    now_waiting = 0

    @app.middleware("http")
    async def measure(request: Request, call_next: Any) -> Response:
        nonlocal now_waiting
        if request.url.path != PATH:
            return await call_next(request)
        start, now_waiting = time.monotonic(), now_waiting + 1
        waiting.set(now_waiting)
        try:
            full = now_waiting > max_waiting
            response = (
                refusal(503, f"{max_waiting} requests wait already; try later") if full else await call_next(request)
            )
        finally:
            now_waiting -= 1
            waiting.set(now_waiting)
        seconds.labels(response.status_code).observe(time.monotonic() - start)
        if "X-Images-Together" in response.headers:
            together.observe(int(response.headers["X-Images-Together"]))
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = "" if first["type"] == "json_invalid" else ".".join(map(str, first["loc"][1:]))
        return refusal(422, f"{place or 'request'}: {first['msg'].removeprefix('Value error, ')}")

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, error.detail)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def stop(*_: Any) -> None:
    """SIGTERM as Ctrl+C, upon which LitServe ends the processes that it started; they leave quietly."""
    if multiprocessing.parent_process() is None:
        raise KeyboardInterrupt
    sys.exit(0)


def main() -> None:
    """Check what was asked for, then leave everything to LitServe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a shipped name, a pipeline or a run of ifuvit train")
    parser.add_argument("--host", default="127.0.0.1", choices=["127.0.0.1", "0.0.0.0", "::"])
    parser.add_argument("--port", type=int, default=8000, help="1024 to 65535")
    parser.add_argument("--max-batch", type=int, default=16, help="requests generated together, at least 2")
    parser.add_argument("--max-waiting", type=int, default=256, help="requests; further ones get status 503")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that a request may wait before its batch")
    options = parser.parse_args()
    try:
        if not 1024 <= options.port <= 65535 or options.max_batch < 2:
            raise InputError("--port takes 1024 to 65535, --max-batch 2 and more")
        Pipeline.from_pretrained(options.model)  # whatever is wrong with it is told here, in one line
        family = socket.AF_INET6 if options.host == "::" else socket.AF_INET
        socket.create_server((options.host, options.port), family=family).close()
    except (InputError, OSError) as error:
        where = "" if isinstance(error, InputError) else f"--host {options.host} --port {options.port}: "
        print(f"serve.py: {where}{error}", file=sys.stderr)
        sys.exit(2)
    # An idle server gathers requests for 20 ms; those that arrive while a batch is generated make the next one.
    api = ImageAPI(options.model, max_batch_size=options.max_batch, batch_timeout=0.02)
    server = litserve.LitServer(api, timeout=options.timeout, max_payload_size=2**16)
    observe(server.app, options.max_waiting)
    signal.signal(signal.SIGTERM, stop)
    server.run(host=options.host, port=options.port, num_api_servers=1, generate_client_file=False)


if __name__ == "__main__":
    main()

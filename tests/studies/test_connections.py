"""The server's limits: on time, on connections, on its log."""

import asyncio
import contextlib
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[study]'")

import httpx  # noqa: E402
from tiny_study import make_study  # noqa: E402

from ifuvit.studies import connections  # noqa: E402
from ifuvit.studies.design import read_study  # noqa: E402
from ifuvit.studies.server import make_app  # noqa: E402


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Of a server with tight limits."""
    monkeypatch.setattr(connections.Protocol, "header_seconds", 0.6)
    monkeypatch.setattr(connections.Protocol, "max_connections", 8)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = connections.make_server(make_app(make_study(tmp_path, "count")))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[:2]
        server.should_exit = True
        thread.join()


def gone(connection: socket.socket, within: float) -> bool:
    """Whether the server closes a connection."""
    connection.settimeout(within)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_a_head_has_to_come_in_time(address: tuple[str, int]) -> None:
    for begin in (
        b"",
        b"GET / HT",
        b"GET /static/study.css HTTP/1.1\r\nHost: x\r\n\r\nGET / HT",
    ):  # of the second request too
        with socket.create_connection(address) as connection:
            connection.sendall(begin)
            if begin.count(b"GET") == 2:
                while b"}" not in connection.recv(100_000)[-10:]:
                    pass
            began = time.monotonic()
            assert gone(connection, 10) and time.monotonic() - began < 8
    with socket.create_connection(address) as connection:  # slowly, but in time
        for part in (b"GET /stat", b"ic/icon.svg HTTP/1.1\r\nHo", b"st: x\r\n\r\n"):
            connection.sendall(part)
            time.sleep(0.05)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_connections_are_capped(address: tuple[str, int]) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(address)) for _ in range(8)]
        time.sleep(0.2)
        assert gone(stack.enter_context(socket.create_connection(address)), 5)
        opened[0].sendall(b"GET /static/icon.svg HTTP/1.1\r\nHost: x\r\n\r\n")
        opened[0].settimeout(5)
        assert opened[0].recv(12) == b"HTTP/1.1 200", "those that are there are served"


def test_no_answer_waits_for_an_acknowledgement(address: tuple[str, int]) -> None:
    """TCP_NODELAY: without it every answer on a connection that is kept takes 40 ms and more."""
    with httpx.Client(base_url="http://{}:{}".format(*address)) as client:
        client.get("/static/icon.svg")
        taken = []
        for _ in range(15):
            began = time.perf_counter()
            client.get("/nowhere")
            taken.append(time.perf_counter() - began)
    assert min(taken) < 0.035


def test_the_same_trouble_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    handle = connections.quietly()
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.ERROR, logger="uvicorn.error"):
        for number in range(1000):
            handle(
                loop,
                {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")},
            )
            if number == 500:
                handle(loop, {"message": "something else"})
    loop.close()
    assert len(caplog.records) == 2


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_server_out_of_descriptors_recovers(tmp_path: Path) -> None:
    """200 connections to a process that may open 128 files: the log stays short, and afterwards it answers."""
    directory = make_study(tmp_path, "count")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ifuvit", "study", "serve", str(directory), "--port", str(port)]

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    log = tmp_path / "log"
    with (
        open(log, "wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, preexec_fn=few, text=True, env={**os.environ}
        ) as process,
    ):
        try:
            assert process.stdout is not None and re.search("raters reach the study at", process.stdout.readline())
            link = f"http://127.0.0.1:{port}/r/{read_study(directory).raters[0].token}/"
            with contextlib.ExitStack() as stack:
                for _ in range(200):
                    with contextlib.suppress(OSError):
                        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)).sendall(
                            b"GET / HT"
                        )
                time.sleep(3)
            for _ in range(100):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(link, timeout=5).status_code == 200:
                        break
                time.sleep(0.2)
            else:
                raise AssertionError("it does not answer any more")
        finally:
            process.kill()
    assert log.stat().st_size < 20_000, log.read_text()[:2000]

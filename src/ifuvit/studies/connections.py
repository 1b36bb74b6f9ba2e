"""Serving with limits: on the time that a request may take to arrive, and on how many connections there are."""

import asyncio
import logging
import socket
import time
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None

HEADER_SECONDS = 15.0
"""How long the head of a request may take to arrive. (The body: `posting.BODY_SECONDS`.)"""
MAX_CONNECTIONS = 1000
SPARE_DESCRIPTORS = 64
"""Open files that are not connections: the database, images, modules, what the next accept needs."""
REPEAT_SECONDS = 60.0
"""The same trouble with connections is logged this often."""


class Protocol(H11Protocol):
    """HTTP with limits. One connection more than there may be is closed at once; a request whose head does not come in time
    takes its connection with it."""

    max_connections = MAX_CONNECTIONS
    header_seconds = HEADER_SECONDS
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for sockets made with this protocol's number. Without it an answer in two parts waits
            # for the acknowledgement of the first, some 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def run(app: Any, listening: socket.socket) -> None:
    """Serve an application on a listening socket until interrupted."""
    Protocol.max_connections = max(min(MAX_CONNECTIONS, _descriptors() - SPARE_DESCRIPTORS), 1)
    server = make_server(app)

    async def serve() -> None:
        asyncio.get_running_loop().set_exception_handler(quietly())
        await server.serve(sockets=[listening])

    asyncio.run(serve())


def make_server(app: Any) -> uvicorn.Server:
    """The server of an application."""
    # No log of requests: they have the tokens in them.
    settings = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning",
        backlog=128,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(settings)


def quietly() -> Any:
    """A handler of the event loop's errors that repeats no message within `REPEAT_SECONDS`: an accept that fails for want of
    descriptors is tried again without end."""
    logged: dict[str, float] = {}
    log = logging.getLogger("uvicorn.error")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, present = context.get("message", ""), time.monotonic()
        if present - logged.get(message, -REPEAT_SECONDS) >= REPEAT_SECONDS:
            logged[message] = present
            log.error("%s (%s)", message, context.get("exception"))

    return handle


def _descriptors() -> int:
    """How many files this process may open, raised as far as it may raise that itself."""
    wanted = MAX_CONNECTIONS + SPARE_DESCRIPTORS
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft

"""SIGTERM and SIGINT while training: noted, so that the loop can write a checkpoint before it ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """The number of the SIGTERM or SIGINT that arrived, if any."""

    number: int | None = None


@contextmanager
def graceful_shutdown() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of dying of them; a second one takes its usual course. Outside the main thread,
    where Python has no say in signals, none is ever noted."""
    stop = Stop()
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        stop.number = number
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

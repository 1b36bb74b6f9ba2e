"""Signals are noted once, outside the main thread not at all, and handlers come back; what trackers are given."""

import os
import signal
import threading
import time

import pytest

from ifuvit.results import Metric
from ifuvit.training.distributed import flat, graceful_shutdown
from ifuvit.utils.config import to_dict


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_noted_and_a_later_one_takes_its_course(number, monkeypatch):
    """One that comes at once is the first again: torchrun passes on what its workers have got themselves."""
    received = []
    plain = signal.signal(number, lambda *_: received.append(number))
    try:
        with graceful_shutdown() as stop:
            assert stop.number is None
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            assert stop.number == number and not received
            now = time.monotonic()
            monkeypatch.setattr("ifuvit.training.distributed.time.monotonic", lambda: now + 4)
            os.kill(os.getpid(), number)
            assert received == [number]
        os.kill(os.getpid(), number)
        assert received == [number] * 2
    finally:
        signal.signal(number, plain)


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyError), graceful_shutdown():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_in_another_thread_nothing_is_noted():
    seen = []

    def work():
        with graceful_shutdown() as stop:
            seen.append((stop.number, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.getsignal(signal.SIGTERM))]


def test_trackers_get_metrics_by_name():
    metric = to_dict(Metric(value=0.5, name="KID", subject="distance", better="lower"))
    line = {"step": 7, "evaluation": {"images": 8, "metrics": [metric]}, "betas": [0.9, 0.95]}
    logged = {"step": 7, "evaluation/images": 8, "evaluation/metrics/KID": 0.5, "betas": "[0.9, 0.95]"}
    assert flat(line) == logged

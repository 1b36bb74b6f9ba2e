"""How long 50 raters who answer at once wait for a study's server, and whether anything is lost, also if the server is killed
six times meanwhile. To be run by hand:

    PYTHONPATH=tests/support python tools/study_load.py [RESULT.json]

Raters are threads with connections of their own, in another process than the server; each posts its next answer as soon as
the last one is acknowledged, so 50 answers are under way all the time. Times are those without kills.
"""

import http.client
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from tiny_study import make_study

from ifuvit.studies.design import read_study
from ifuvit.studies.store import Store
from ifuvit.utils.files import manifest, now, write_json

RATERS, ANSWERS, KILLS = 50, 40, 6
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def count_of(rater: int, task: int) -> int:
    """What a rater answers; neighbors differ, so an answer in another's place is seen."""
    return (7 * rater + 3 * task) % 10


def post_all(port: int, tokens: list[str], tell: Connection) -> None:
    """Post every rater's answers, again where a connection broke or the server asked for it; tell how many are acknowledged,
    then which, how long each took, and how often the one and the other happened."""
    acknowledged: set[tuple[int, int]] = set()
    waited: list[float] = []
    broken = not_now = 0
    begin = threading.Barrier(len(tokens))

    def ask(connection: http.client.HTTPConnection, place: str, body: str = "") -> int:
        """The status; 0 where there was none, or it was "not saved, try again"."""
        nonlocal broken, not_now
        try:
            connection.request("POST", place, body, FORM)
            response = connection.getresponse()
            response.read()
            if response.status != 503:
                return response.status
            not_now += 1
            return 0
        except (http.client.HTTPException, OSError):
            connection.close()  # the next request opens it again
            broken += 1
            time.sleep(0.05)
            return 0

    def answer(rater: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (status := ask(connection, f"/r/{tokens[rater]}/agree")) != 303:
            assert status == 0, status
        begin.wait()
        for task in range(ANSWERS):
            body, again = f"version=0&seconds=1.5&count={count_of(rater, task)}", False
            start = time.perf_counter()
            while True:
                status = ask(connection, f"/r/{tokens[rater]}/{task}", body)
                if status == 303:
                    waited.append(time.perf_counter() - start)
                    acknowledged.add((rater, task))
                    break
                if status == 409:
                    assert again, "refused, but never sent before"
                    break  # it was kept, and the acknowledgement was lost
                assert status == 0, status
                again = True

    threads = [threading.Thread(target=answer, args=(rater,)) for rater in range(len(tokens))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
        tell.send(len(acknowledged))
    tell.send((acknowledged, waited, broken, not_now))


@contextmanager
def server(directory: Path, port: int) -> Iterator[subprocess.Popen]:
    """A server that listens; it ends by a kill."""
    command = [sys.executable, "-m", "ifuvit", "study", "serve", str(directory), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server did not start"
            time.sleep(0.02)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def run(kills: int) -> dict[str, float | int]:
    """One study from the first answer to the last."""
    with tempfile.TemporaryDirectory() as place:
        sizes = {"raters": RATERS, "raters_per_item": RATERS, "repeats": 0, "checks": 0}
        directory = make_study(Path(place), "count", images_per_prompt=3, **sizes)
        study = read_study(directory)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hear, tell = multiprocessing.Pipe(duplex=False)
        raters = multiprocessing.Process(target=post_all, args=(port, [rater.token for rater in study.raters], tell))
        begun, done, processor = time.monotonic(), None, 0.0
        for life in range(kills + 1):
            with server(directory, port) as process:
                if life == 0:
                    begun = time.monotonic()
                    raters.start()
                used = psutil.Process(process.pid)
                before = sum(used.cpu_times()[:2])
                goal = RATERS * ANSWERS * (life + 1) // (kills + 1)
                while done is None:
                    heard = hear.recv()
                    if isinstance(heard, tuple):
                        done = heard
                    elif life < kills and heard >= goal:
                        break  # in the middle of 50 requests
                total, processor = time.monotonic() - begun, processor + sum(used.cpu_times()[:2]) - before
        raters.join()
        assert done is not None
        acknowledged, waited, broken, not_now = done
        store = Store(directory)
        entries = store.entries()
        store.close()
    kept = {(int(entry.rater[1:]) - 1, entry.task): entry.count for entry in entries}
    waited.sort()
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(kept.get(answer) != count_of(*answer) for answer in acknowledged),
        "kept": len(kept),
        "kept_twice": len(entries) - len(kept),
        "broken_connections": broken,
        "told_to_try_again": not_now,
        "median_ms": 1000 * statistics.median(waited),
        "p95_ms": 1000 * waited[int(0.95 * len(waited))],
        "longest_ms": 1000 * waited[-1],
        "answers_per_second": len(waited) / total,
        "server_processor_ms_an_answer": 1000 * processor / len(waited),
    }


def main(result: Path | None) -> None:
    """Measure, print, and write the result if a file is given."""
    started, load = now(), os.getloadavg()[0]
    calm, killed = run(0), run(KILLS)
    about = ("acknowledged", "lost", "kept", "kept_twice", "broken_connections", "told_to_try_again")
    facts = {
        "raters_at_once": RATERS,
        "load_before": load,
        **calm,
        "killed": {"kills": KILLS, **{name: killed[name] for name in about}},
    }
    for name, value in facts.items():
        print(f"{name:32} {value:,.1f}" if isinstance(value, float) else f"{name:32} {value}")
    if result is not None:
        write_json(result, manifest("study load", {}, started=started, **facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

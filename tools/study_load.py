"""How long 50 raters who answer at once wait for a study's server, and whether anything is lost. To be run by hand:

    PYTHONPATH=tests/support python tools/study_load.py [RESULT.json]

Raters are threads with connections of their own, in another process than the server; each posts its next answer as soon as
the last one is acknowledged, so 50 answers are under way all the time.
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
from pathlib import Path

import psutil
from tiny_study import make_study

from ifuvit.studies.answers import read_answers
from ifuvit.studies.design import read_study
from ifuvit.utils.files import manifest, now, write_json

RATERS, ANSWERS = 50, 40
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def post_all(port: int, tokens: list[str], seconds: "multiprocessing.SimpleQueue") -> None:
    """Every rater's answers; the seconds of each."""
    waited: list[float] = []
    begin = threading.Barrier(len(tokens))

    def answer(token: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", f"/r/{token}/agree", headers={"Content-Length": "0"})
        connection.getresponse().read()
        begin.wait()
        for task in range(ANSWERS):
            start = time.perf_counter()
            connection.request("POST", f"/r/{token}/{task}", "version=0&seconds=1.5&count=3", FORM)
            response = connection.getresponse()
            response.read()
            waited.append(time.perf_counter() - start)
            assert response.status == 303, response.status

    threads = [threading.Thread(target=answer, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds.put(waited)


def main(result: Path | None) -> None:
    """Measure, print, and write the result if a file is given."""
    started = now()
    with tempfile.TemporaryDirectory() as place:
        sizes = {"raters": RATERS, "raters_per_item": RATERS, "repeats": 0, "checks": 0}
        directory = make_study(Path(place), "count", images_per_prompt=3, **sizes)
        study = read_study(directory)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "ifuvit.commands.main", "study", "serve", str(directory), "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            server.stdout.readline()
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
            queue = multiprocessing.SimpleQueue()
            begun, processor_before = time.monotonic(), sum(psutil.Process(server.pid).cpu_times()[:2])
            raters = multiprocessing.Process(target=post_all, args=(port, [r.token for r in study.raters], queue))
            raters.start()
            waited = sorted(queue.get())
            raters.join()
            total, processor = time.monotonic() - begun, sum(psutil.Process(server.pid).cpu_times()[:2])
            server.send_signal(signal.SIGKILL)
        kept = len(read_answers(directory))
    facts = {
        "raters_at_once": RATERS,
        "answers": len(waited),
        "lost": RATERS * ANSWERS - kept,
        "median_ms": 1000 * statistics.median(waited),
        "p95_ms": 1000 * waited[int(0.95 * len(waited))],
        "longest_ms": 1000 * waited[-1],
        "answers_per_second": len(waited) / total,
        "server_processor_ms_an_answer": 1000 * (processor - processor_before) / len(waited),
        "load_before": os.getloadavg()[0],
    }
    for name, value in facts.items():
        print(f"{name:32} {value:,.1f}" if isinstance(value, float) else f"{name:32} {value}")
    if result is not None:
        write_json(result, manifest("study load", {}, started=started, **facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

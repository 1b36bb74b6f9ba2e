"""Time of making a matrix orthogonal: `torch.optim.Muon`'s way, in bfloat16, over ours, which is in single precision on a CPU.

For the matrices of the blocks of the default backbone, one thread, medians of 5 in turns. Usage: python tools/muon_time.py OUT.json
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.optim._muon import _zeropower_via_newtonschulz

from ifuvit.benchmarks.machine import hardware
from ifuvit.training.muon import orthogonalize
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import write_json

SHAPES = ((576, 192), (192, 192), (768, 192), (192, 768), (192, 384))


def seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main() -> None:
    torch.set_num_threads(1)
    rows = {}
    for shape in SHAPES:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        times = [
            (
                seconds(partial(_zeropower_via_newtonschulz, matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)),
                seconds(partial(orthogonalize, matrix)),
            )
            for _ in range(6)
        ][1:]
        rows[f"{shape[0]}x{shape[1]}"] = statistics.median(theirs / ours for theirs, ours in times)
    write_json(Path(sys.argv[1]), {"torchs_over_ours": rows, "machine": to_dict(hardware(torch.device("cpu")))})


if __name__ == "__main__":
    main()

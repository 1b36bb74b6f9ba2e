"""What `ifuvit analyze` costs on a CPU, written to a JSON file.

TIME: `analyze attention` of one prompt with 15 steps on the shipped model from a cold start, and `analyze rank` of 64 prompts, each
in a process of its own: seconds by the clock and of the processor, which differ where other work runs, and the load. What is
imported though this package does not require it (diffusers imports peft where it is installed) is left out once.

MEMORY: every analysis at the paper's size (random weights; 77 tokens of MiniLM; an autoencoder of factor 8 with few channels),
with one step and two prompts: the most memory of a process above that of one with the libraries and the model loaded, next to
plain sampling of the same batch.

Usage: python tools/analysis_cost.py OUT.json [--part attention|rank|memory] [--repeats 3]
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ifuvit.utils.config import to_dict
from ifuvit.utils.files import read_object, write_json

COLD = {"attention": "attention, 1 prompt, 15 steps", "rank": "rank, 64 prompts, 15 steps, all controls"}
NOT_REQUIRED = ("peft",)
"""What diffusers imports where it is installed."""
PROMPTS = 2
"""At the paper's size, in one batch."""


_WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names})); from ifuvit.commands.main import main; main()"


def cold_start(action: str, *, without: Sequence[str] = ()) -> dict[str, float]:
    """Seconds of `ifuvit analyze ACTION` in a process of its own, for which some packages are not installed."""
    with tempfile.TemporaryDirectory() as out:
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        program = ["-c", _WITHOUT.format(names=list(without))] if without else ["-m", "ifuvit"]
        command = [sys.executable, *program, "analyze", action, "--device", "cpu", "--out", f"{out}/out"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(wall, 2), "processor_seconds": round(processor, 2), "load": round(os.getloadavg()[0], 1)}


def write_paper_size(directory: Path, preset: str, objective: Any) -> Path:
    """A pipeline of the paper's size with random weights."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.normalization import LatentNormalization
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.model.presets import presets
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import Pipeline

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_add_attention=False,
    ).save_pretrained(directory / "vae")
    text_encoder = TextEncoder.from_pretrained("minilm", max_tokens=77)
    Pipeline(
        IFUViT(replace(presets[preset], text_width=text_encoder.width)),
        Autoencoder.from_pretrained(directory / "vae"),
        text_encoder,
        normalization=LatentNormalization(scale=(0.18215,)),
        objective=objective,
    ).save_pretrained(directory / preset)
    return directory / preset


def peak_above(work: Callable[[], object]) -> int:
    """Bytes by which a forked process that does the work needs more at its peak than it begins with."""
    receive, send = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            send.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    send.close()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the analysis failed"
    return receive.recv()


def memory() -> dict[str, Any]:
    """By preset and objective: megabytes of each analysis above the loaded model, and the seconds that each took."""
    import torch

    from ifuvit.analysis import common
    from ifuvit.analysis import run as analysis
    from ifuvit.analysis.config import (
        AnalyzeAblateConfig,
        AnalyzeAttentionConfig,
        AnalyzeInformationConfig,
        AnalyzeProbeConfig,
        AnalyzeRankConfig,
    )
    from ifuvit.analysis.run import AnyConfig
    from ifuvit.diffusion.objective import DDPM, Flow
    from ifuvit.diffusion.settings import SamplingSettings
    from ifuvit.reporting.analysis_page import write_page

    def analyze(config: Any) -> None:
        with patch.object(common, "open_models", lambda *_: [opened]):  # it is in memory already
            write_page(analysis.run(config)[0])

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        captions = ["three sheep on grass", "a bus left of an apple"]
        (directory / "prompts.txt").write_text("\n".join(captions[:PROMPTS]))
        one, three = SamplingSettings(steps=1), SamplingSettings(steps=3)
        for preset, objective in (("concat-early", DDPM()), ("cross-intermediate", Flow())):
            model = str(write_paper_size(directory / f"{preset}-parts", preset, objective))
            (opened,) = common.open_models([model], torch.device("cpu"))
            shared: dict[str, Any] = {"models": (model,), "device": "cpu"}
            files: dict[str, Any] = {**shared, "prompts_file": directory / "prompts.txt"}
            cases: dict[str, Callable[[], object]] = {
                "sampling alone, 1 step": partial(opened.pipeline, captions, one),
            }
            configs: dict[str, AnyConfig] = {
                "attention, 1 step": AnalyzeAttentionConfig(
                    **files, out=directory / "attention", prompts=(), sampling=one
                ),
                "rank, 1 step": AnalyzeRankConfig(**files, out=directory / "rank", sampling=one),
            }
            if preset == "concat-early":  # which needs most
                configs["attention, 3 steps"] = AnalyzeAttentionConfig(
                    **files, out=directory / "attention", prompts=(), sampling=three
                )
            else:
                configs |= {
                    "ablate the middle block, 1 step": AnalyzeAblateConfig(
                        **files,
                        out=directory / "ablate",
                        blocks=("mid_block",),
                        sinks=False,
                        counter=None,
                        alignment="none",
                        sampling=one,
                    ),
                    "probe, 16 scenes, 2 at a time": AnalyzeProbeConfig(
                        **shared, out=directory / "probe", num_scenes=16, levels=(0.5,), batch_size=PROMPTS
                    ),
                    "information, 2 scenes a skill, 2 at a time": AnalyzeInformationConfig(
                        **shared, out=directory / "information", num_scenes=2, levels=(0.5,), batch_size=PROMPTS
                    ),
                }
            cases |= {name: partial(analyze, config) for name, config in configs.items()}
            rows = found[f"{preset}, {objective.name}, {PROMPTS} prompts"] = {}
            for name, work in cases.items():
                begun = time.monotonic()
                peak = peak_above(work)
                rows[name] = {"megabytes": round(peak / 1e6), "seconds": round(time.monotonic() - begun, 1)}
                print(preset, name, rows[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=(*COLD, "memory"))
    parser.add_argument("--repeats", type=int, default=3, help="of attention; rank is timed once")
    arguments = parser.parse_args()
    # What is in the file of the other parts is kept: on a machine with other work they are better run one by one.
    found = read_object(arguments.out) if arguments.out.is_file() else {}
    for action, name in COLD.items():
        if arguments.part in (None, action):
            times = [cold_start(action) for _ in range(arguments.repeats if action == "attention" else 1)]
            found[name] = {"times": times}
            not_required = [one for one in NOT_REQUIRED if find_spec(one)]
            if action == "attention" and not_required:
                found[name][f"without {', '.join(not_required)}"] = cold_start(action, without=not_required)
            print(name, found[name], flush=True)
    if arguments.part in (None, "memory"):
        found["memory_at_the_papers_size"] = memory()
    import torch

    from ifuvit.benchmarks.machine import hardware

    write_json(arguments.out, {**found, "machine": to_dict(hardware(torch.device("cpu")))})


if __name__ == "__main__":
    main()

"""Golden values: what the command line gives today, so that a change that should change no number can prove it.

    PYTHONPATH=CHECKOUT/src python tools/golden_values.py record golden.json
    PYTHONPATH=OTHER_CHECKOUT/src python tools/golden_values.py check golden.json [--only training costs]

Everything goes through `python -m ifuvit` in subprocesses, so that it outlives changes of the Python interface; where a
file has its numbers is told by the functions under "What the program writes". Values are compared to the last bit: they
hold for one kind of processor and one version of torch, which the file names. Elsewhere, record again from the old
checkout. It takes minutes on two cores; nothing but FILE is written.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

THREADS = 2  # kernels split their sums by it
MODELS = ("openmoji-cross-intermediate", "openmoji-4-concat-early")
SOLVERS = ("dpm++", "dpm++2m", "euler-a")
PROMPTS = (
    *("a bus", "three apples", "five sheep", "two people on a pink background"),
    *("an apple left of a bus", "a sheep below a star", "four robots", "something that no scene shows"),
)
COUNT_SCORES = ("right_kind", "right_count", "right", "average_error", "match_ratio")
PRESETS = tuple(f"openmoji-{how}-{fusion}" for how in ("concat", "cross") for fusion in ("early", "intermediate"))
PARITY = ("test_concat_early_is_uvit", "test_patch_size_four", "test_output_is_uvits")  # against U-ViT restated

# --- What the program writes: adapt these where files or keys get other names, but keep the names of the values. ---


def training_values(run: Path) -> dict[str, Any]:
    """Losses, gradient norms, validation loss and averaged weights of a run directory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(run / "pipeline" / "transformer" / "model.safetensors")
    return {
        "loss": [line["loss"] for line in lines if "loss" in line],
        "gradient_norm": [line["gradient_norm"] for line in lines if "gradient_norm" in line],
        "validation_loss": [line["validation_loss"] for line in lines if "validation_loss" in line],
        "weights": sha256(*(part for name in sorted(weights) for part in (name.encode(), array_bytes(weights[name])))),
    }


def evaluation_values(result: dict[str, Any]) -> dict[str, float]:
    """The estimates in the result of an evaluation."""
    metrics = {metric["name"]: metric["value"] for metric in result["metrics"]}
    counts = result["objects"]["paper"]["counts"]["overall"]
    return {
        "KID": metrics["KID-EffNetLite0"],
        "FD": metrics["FD-EffNetLite0"],
        "precision": metrics["precision-EffNetLite0"],
        "recall": metrics["recall-EffNetLite0"],
        "alignment": metrics["TwoTower score"],
        **{name: counts[name]["value"] for name in COUNT_SCORES},
    }


def image_files(out: Path) -> list[Path]:
    """The images of a directory of `ifuvit generate`, in order, without the grid."""
    return sorted(out.glob("[0-9]*.png"))


def feature_values(features: Path) -> dict[str, str]:
    """Hashes of prepared features: all arrays by their files' names, and the texts next to them."""
    arrays = {file: array_bytes(np.load(file)) for file in features.rglob("*.npy")}
    texts = {features / name: (features / name).read_bytes() for name in ("captions.jsonl", "images.jsonl")}
    return {str(file.relative_to(features)): sha256(data) for file, data in sorted((arrays | texts).items())}


# --- Values by group. ---


@dataclass(frozen=True)
class Program:
    """The program under test, and a scratch directory that its runs share."""

    package: Path
    entry: str
    scratch: Path

    def python(self, *arguments: str | Path, cwd: Path | None = None, check: bool = True) -> str:
        """What `python ARGUMENTS` prints, with this package before any other and always the same kernels."""
        path = os.pathsep.join(filter(None, [str(self.package.parent), os.environ.get("PYTHONPATH")]))
        fixed = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
        threads["OMP_WAIT_POLICY"] = "PASSIVE"  # where others use the processor too, spinning doubles the time
        command = [sys.executable, *map(str, arguments)]
        environment = {**os.environ, **fixed, **threads}
        done = subprocess.run(command, cwd=cwd or self.scratch, env=environment, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}\nexit status {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def ifuvit(self, *arguments: str | Path) -> str:
        """What `ifuvit ARGUMENTS` prints."""
        return self.python("-m", self.entry, *arguments)

    def scenes(self) -> Path:
        """200 scenes to train on, and 120 others."""
        if not (out := self.scratch / "scenes").exists():
            self.ifuvit("scenes", "--out", out, "--train", "200", "--val", "120")
        return out

    def features(self, text: str) -> Path:
        """The training scenes prepared, in several shards."""
        if not (out := self.scratch / f"features-{text}").exists():
            captions = self.scenes() / "annotations" / "captions_train.json"
            source = ("--images", self.scenes() / "images" / "train", "--captions", captions)
            self.ifuvit("prepare", "coco", *source, "--out", out, "--text", text, "--shard-size", "128")
        return out


def images(program: Program) -> dict[str, Any]:
    runs = {f"{model} {solver}": ["--model", model, "--solver", solver] for model in MODELS for solver in SOLVERS}
    runs["guidance interval"] = ["--model", MODELS[0], "--guidance-interval", "0.2", "0.8"]
    runs["exact"] = ["--model", MODELS[0], "--exact", "--steps", "10"]
    values = {}
    for number, (name, options) in enumerate(runs.items()):
        out = program.scratch / f"images-{number}"
        program.ifuvit("generate", *PROMPTS, "--seed", "0", *options, "--out", out)
        values[name] = {prompt: pixels(file) for prompt, file in zip(PROMPTS, image_files(out), strict=True)}
    return values


def data(program: Program) -> dict[str, Any]:
    drawn = sorted(program.scenes().rglob("*.png"))
    prepared = {f"text {text}": feature_values(program.features(text)) for text in ("embeddings", "tokens")}
    return {"scenes": sha256(*(pixels(file).encode() for file in drawn)), **prepared}


def training(program: Program) -> dict[str, Any]:
    options = "--embed-dim 48 --depth 6 --num-heads 4 --batch-size 8 --precision fp32 --steps 20 --warmup-steps 5"
    options += " --log-every 1 --validate-every 20 --validation-images 40 --sample-every 0"
    values = {}
    for preset in PRESETS:
        out = program.scratch / preset
        program.ifuvit("train", preset, "--data", program.features("embeddings"), "--out", out, *options.split())
        values[preset] = training_values(out)
    return values


def costs(program: Program) -> dict[str, Any]:
    return json.loads(program.ifuvit("costs", "--json"))


def evaluation(program: Program) -> dict[str, float]:
    options = "--num-images 100 --steps 10 --count-prompts paper=2 --metrics distances alignment counts"
    out = program.scratch / "evaluation.json"
    program.ifuvit("evaluate", MODELS[0], "--data", program.scenes(), "--out", out, *options.split())
    return evaluation_values(json.loads(out.read_text()))


def uvit_parity(program: Program) -> dict[str, int]:
    root = program.package.parents[1]
    files = [file for name in ("test_uvit.py", "test_convert_uvit.py") for file in (root / "tests").rglob(name)]
    assert files, f"{root}: no tests of U-ViT"
    options = ("-q", "-p", "no:cacheprovider", "-k", " or ".join(PARITY))
    told = program.python("-m", "pytest", *options, *files, cwd=root, check=False)
    return {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", told)}


GROUPS: dict[str, Callable[[Program], dict[str, Any]]] = {
    group.__name__: group for group in (images, data, training, costs, evaluation, uvit_parity)
}

# --- Hashes and comparison. ---


def sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def array_bytes(array: np.ndarray) -> bytes:
    """An array's type, shape and contents."""
    return f"{array.dtype} {array.shape} ".encode() + array.tobytes()


def pixels(file: Path) -> str:
    """The hash of an image's decoded pixels."""
    with Image.open(file) as image:
        return sha256(array_bytes(np.asarray(image.convert("RGB"))))


def entries(values: Any, name: str) -> Iterator[tuple[str, str]]:
    """The single values of nested dictionaries, each with its path, as text to the last bit."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from entries(value, f"{name}/{key}")
    else:
        yield name, json.dumps(values)


def compare(golden: dict[str, str], present: dict[str, str]) -> int:
    """Print each entry, and return how many differ."""
    differing = 0
    for name in dict.fromkeys([*golden, *present]):
        was, now = golden.get(name, "absent"), present.get(name, "absent")
        print(f"equal      {name}" if was == now else f"different  {name}\n    golden   {was}\n    present  {now}")
        differing += was != now
    return differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "check"])
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), metavar="NAME", help=f"groups: {', '.join(GROUPS)}")
    parser.add_argument("--entry", help="module to run; default: ifuvit where it has a __main__, else ifuvit.cli")
    arguments = parser.parse_args()
    spec = importlib.util.find_spec("ifuvit")
    if spec is None or spec.origin is None:
        parser.error("no package ifuvit; set PYTHONPATH to the src of a checkout")
    package = Path(spec.origin).resolve().parent
    entry = arguments.entry or ("ifuvit" if (package / "__main__.py").is_file() else "ifuvit.cli")
    recording = arguments.action == "record"
    if recording and arguments.file.exists():
        parser.error(f"{arguments.file}: exists; golden values are not overwritten")
    golden = {} if recording else json.loads(arguments.file.read_text())
    chosen = arguments.only or [name for name in GROUPS if recording or name in golden["values"]]

    values, differing = {}, 0
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        program = Program(package, entry, Path(scratch))
        print(f"{package} by `python -m {entry}`", file=sys.stderr)
        told = "import torch; print('torch', torch.__version__, torch.backends.cpu.get_cpu_capability())"
        made_with = f"{program.python('-c', told).strip()}, {THREADS} threads"
        if not recording and golden["made_with"] != made_with:
            print(f"the golden values are of {golden['made_with']}, here is {made_with}", file=sys.stderr)
        for name in chosen:
            begun = time.monotonic()
            try:
                values[name] = GROUPS[name](program)
            except Exception as error:  # when checking, a failure is a difference, and the next group still tells more
                if recording:
                    raise
                values[name] = {"failed": f"{type(error).__name__}: {error}"}
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
            if not recording:
                was = dict(entries(golden["values"].get(name, {}), name))
                differing += compare(was, dict(entries(values[name], name)))
    if recording:
        arguments.file.write_text(json.dumps({"made_with": made_with, "values": values}, indent=1) + "\n")
        return
    print(f"{differing} different" if differing else "all equal")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()

"""An option that has no effect with another one is refused in one line that names both, whatever its value; without the
other one, or with what it requires, it is not."""

import importlib
import json
from typing import Any, NamedTuple

import pytest
from PIL import Image

from ifuvit.commands.main import COMMANDS
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.targets import _diffusers
from ifuvit.utils.command_line import Actions, parse
from ifuvit.utils.errors import InputError

GENERATE = "generate sheep --model /nowhere"
EVALUATE = "evaluate /nowhere --data /nowhere --out out.json"
STATISTICS = "evaluate --data /nowhere --write-statistics out.npz"
TRAIN = "train cross-intermediate --data /nowhere --out out"
ANALYZE = "/nowhere --out out"
COUNTER = "make-standin autoencoder --images /nowhere --out out"


class Case(NamedTuple):
    command: str
    option: str
    """Which has no effect, with its value."""
    because: str
    """What the line says of the others."""
    refused: str = ""
    """Further options with which it is refused."""
    accepted: str = ""
    """And those with which it is not."""


CASES = [
    Case(GENERATE, "--adapter-scale 1.0", "without --adapter", "", "--adapter a"),
    Case(GENERATE, "--negative-prompt grass", "with --guidance-scale 1", "--guidance-scale 1"),
    Case(GENERATE, "--guidance-rescale 0.7", "with --guidance-scale 1", "--guidance-scale 1"),
    Case(GENERATE, "--guidance_interval 0 0.5", "with --guidance-scale 1", "--guidance-scale=1", "--guidance-scale=2"),
    *(
        Case(STATISTICS, option, "without TARGET", "", "/nowhere --out out.json")
        for option in (
            "--metrics distances",
            "--steps 15",
            "--guidance-scale 2",
            "--guidance-scales 1 2",
            "--seed 0",
            "--count-prompts paper=1",
            "--captions c.txt",
            "--statistics s.npz",
            "--counter openmoji",
            "--detector d",
            "--thresholds 0.3",
            "--images-dir i",
            "--batch-size 2",
        )
    ),
    Case(STATISTICS, "--cache c", "without TARGET or --keep-features", "", "--keep-features"),
    Case(STATISTICS, "--num-images 10", "with --protocol paper", "--protocol paper", "--protocol quick"),
    Case(STATISTICS, "--weights two-tower=w", "for two-tower without --metrics alignment"),
    Case(EVALUATE, "--counter openmoji", "without --metrics counts", "--metrics distances", "--metrics counts"),
    Case(EVALUATE, "--detector d", "without --metrics counts", "--guidance-scales 1 2", "--metrics counts"),
    Case(EVALUATE, "--threshold 0.2", "without --metrics counts", "--metrics costs", "--detector d"),
    Case(EVALUATE, "--thresholds 0.2", "without --metrics counts", "--metrics costs", "--detector d"),
    Case(EVALUATE, "--counter c", "with --detector", "--detector d"),
    Case(EVALUATE, "--counter c", "with --protocol paper without --detector", "--protocol paper"),
    Case(EVALUATE, "--threshold 0.2", "with --protocol paper without --detector", "--protocol paper", "--detector d"),
    Case(EVALUATE, "--count-prompts paper=1", "without --metrics counts", "--metrics distances", "--metrics diversity"),
    Case(EVALUATE, "--statistics s.npz", "without --metrics distances", "--metrics counts", "--metrics distances"),
    Case(EVALUATE, "--cache c", "without --metrics distances", "--metrics counts", "--metrics distances"),
    Case(EVALUATE, "--captions c.txt", "with --metrics distances", "--metrics distances", "--metrics alignment"),
    Case(
        "evaluate /nowhere --metrics counts --out out.json", "--num-images 3", "without --data", "", "--data /nowhere"
    ),
    Case(EVALUATE, "--guidance-scale 2", "with --guidance-scales", "--guidance-scales 1 2"),
    Case(EVALUATE, "--guidance-rescale 0.7", "with --guidance-scale 1", "--guidance-scale 1 --metrics distances"),
    Case(EVALUATE, "--weights two-tower=w", "for two-tower without --metrics alignment", "--metrics distances"),
    Case(EVALUATE, "--weights effnet-lite0=w", "for effnet-lite0 without --metrics distances", "--metrics alignment"),
    Case("experiment table1 --out out", "--recipe modern", "with --scale paper", "--scale paper --data /nowhere"),
    Case("experiment guidance_sweep --out out", "--detector d", "with guidance_sweep"),
    Case("study make count a --out out", "--guidance-rescale 0.7", "with --guidance-scale 1", "--guidance-scale 1"),
    Case("study export /nowhere csv --out out", "--url http://127.0.0.1:8000", "with csv"),
    Case("study analyze /nowhere", "--device cpu", "without --counter or --detector", "", "--counter openmoji"),
    Case("study analyze /nowhere", "--threshold 0.3", "without --detector", "--counter openmoji", "--detector d"),
    *(
        Case(f"analyze {action} {ANALYZE}", "--guidance-interval 0 1", "with --guidance-scale 1", "--guidance-scale 1")
        for action in ("attention", "rank", "ablate")
    ),
    Case(f"analyze rank {ANALYZE}", "--num-prompts 64", "with --prompts-file", "--prompts-file p"),
    Case(f"analyze ablate {ANALYZE}", "--num-prompts 32", "with --prompts-file", "--prompts-file p"),
    Case("bench generate --out o.json", "--guidance-interval 0 0.5", "with --guidance-scale 1", "--guidance-scale 1"),
    Case("bench scaling --out o.json", "--depth 4", "without --axis depth", "--axis text-tokens", "--axis depth"),
    Case("bench scaling --out o.json", "--image-tokens 64", "without --axis image-tokens", "--axis depth"),
    Case("bench scaling --out o.json", "--text-tokens 16", "without --axis text-tokens", "--axis depth"),
    Case("costs", "--batch-size 256", "without --training-memory or --gpus", "", "--training-memory"),
    Case("costs", "--precision bf16", "without --training-memory or --gpus", "", "--gpus 8"),
    Case("costs", "--steps 10", "without --gpus", "--training-memory", "--gpus 8"),
    Case("costs", "--tflops 100", "without --gpus", "--training-memory", "--gpus 8"),
    Case(COUNTER, "--muon-learning-rate 0.02", "with --optimizer adamw", "--optimizer adamw"),
    Case(COUNTER, "--kl-weight 1e-8", "with --decoder-only", "--decoder-only --init-from a"),
    Case(COUNTER, "--thumbnail-weight 1", "with --decoder-only", "--decoder-only --init-from a"),
    Case(TRAIN, "--align-weight 0.5", "without --align-to", "", "--align-to effnet-lite0"),
    Case(TRAIN, "--align-until 0.4", "without --align-to", "", "--align-to effnet-lite0"),
    Case(TRAIN, "--layout-until 0.6", "without --layout-weight", "", "--layout-weight 0.1"),
    Case(TRAIN, "--layout-kinds 42", "without --layout-weight", "", "--layout-weight 0.1"),
    Case(TRAIN, "--renormalize-latents", "without --init-from", "", "--init-from a"),
    Case(
        TRAIN,
        "--latent-normalization channel",
        "with --init-from without --renormalize-latents",
        "--init-from a",
        "--init-from a --renormalize-latents",
    ),
    Case(
        TRAIN, "--logit-mean 0.5", "with --times uniform", "--objective flow", "--objective flow --times logit-normal"
    ),
    Case(TRAIN, "--logit-std 1", "with --times uniform", "--objective flow", "--objective flow --times logit-normal"),
    Case(TRAIN, "--final-learning-rate 0.1", "with --decay none", "", "--decay cosine"),
    Case(TRAIN, "--validation-images 9", "with --val-data and --validate-every 0", "--val-data v --validate-every 0"),
    Case(TRAIN, "--validate-every 9", "with --validation-images 0", "--validation-images 0"),
    Case(TRAIN, "--sample-prompts bus", "with --sample-every 0", "--sample-every 0"),
    *(
        Case(TRAIN, option, "without --evaluate-every", "", "--evaluate-every 5 --evaluate-data d")
        for option in (
            "--evaluate-data d",
            "--evaluate-images 200",
            "--evaluate-protocol quick",
            "--evaluate-steps 25",
            "--evaluate-solver auto",
            "--evaluate-weights two-tower=w",
        )
    ),
    Case(
        TRAIN,
        "--evaluate-guidance-rescale 0.7",
        "with --evaluate-guidance-scale 1",
        "--evaluate-guidance-scale 1 --evaluate-every 5 --evaluate-data d",
        "--evaluate-every 5 --evaluate-data d",
    ),
    Case(TRAIN, "--cross-attention joint", "with --conditioning concat", "--conditioning concat"),
    Case(TRAIN, "--text-layers 1", "with --text-mix none"),
]


def settled(command: str) -> Any:
    """A command line's configuration, as its command parses it; nothing is done."""
    name, *arguments = command.split()
    module = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}")
    config = module.CONFIG
    if name == "train":
        config = Actions(
            word=config.word,
            about=config.about,
            configs={arguments[0]: module._with_chosen_kinds(config.configs[arguments[0]], arguments[1:])},
        )
    if name == "evaluate" and "--protocol" in arguments:
        config = module.default_config(arguments[arguments.index("--protocol") + 1])
    return parse(config, arguments, prog=f"ifuvit {name}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command.split()[0]} {case.option} {case.refused}")
def test_refused_with_both_names_and_accepted_without(refusal, case: Case, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal(*f"{case.command} {case.option} {case.refused}".split())
    name = case.option.split()[0].replace("_", "-")
    assert line.startswith(f"ifuvit: {name}: has no effect {case.because}"), line
    if case.accepted or case.refused:
        settled(f"{case.command} {case.accepted} {case.option}")


def test_every_configuration_names_options_of_its_own() -> None:
    """Whatever state it is in: a name that is mistyped in `without_effect` would refuse nothing."""
    tried = {case.command.split()[0] for case in CASES}
    found = set()
    for name in (name for group in COMMANDS.values() for name in group):
        config = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}").CONFIG
        configs = config.configs.values() if isinstance(config, Actions) else [config]
        if any(hasattr(one, "without_effect") for one in configs):
            found.add(name)
    assert found == tried


@pytest.mark.parametrize(
    "option",
    ["--steps 3", "--seed 1", "--count-prompts paper=1", "--images-dir kept", "--batch-size 2", "--solver ddim"],
)
def test_images_that_are_there_are_not_generated(refusal, option: str, monkeypatch, tmp_path) -> None:
    """`evaluate` called such a result that of another protocol, "changed: steps=3"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save("images/0.png")
    (tmp_path / "images/manifest.json").write_text(json.dumps({"images": [{"file": "0.png", "prompt": "a bus"}]}))
    line = refusal("evaluate", "images", "--metrics", "counts", "--out", "r.json", *option.split())
    assert line == f"ifuvit: {option.split()[0]}: has no effect, for images holds images; leave it out\n"
    assert not (tmp_path / "r.json").exists()


def test_a_model_that_draws_no_captions_has_no_number_of_them(refusal, model, tmp_path) -> None:
    from ifuvit.data.scenes import write_scenes

    data = write_scenes(tmp_path / "scenes", train=1, val=2, size=32)
    command = ["evaluate", model, "--data", data, "--out", tmp_path / "r.json"]
    assert "--num-images: has no effect" in refusal(*command, "--metrics", "counts", "--num-images", "2")
    assert "--steps: has no effect" in refusal(*command, "--metrics", "costs", "--steps", "2")


def test_a_pipeline_of_diffusers_has_its_own_solver(monkeypatch) -> None:
    import torch
    from diffusers import DiffusionPipeline

    class Theirs:
        def __call__(self, prompt: list[str]) -> None: ...
        def to(self, device: object) -> None: ...
        def set_progress_bar_config(self, disable: bool) -> None: ...

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: Theirs())
    target = _diffusers(".", torch.device("cpu"))
    assert target.generator is not None
    with pytest.raises(InputError, match="a diffusers pipeline samples without --solver; leave it out"):
        target.generator(["a bus"], SamplingSettings(solver="ddim"), seed=0, batch_size=1, first_index=0)

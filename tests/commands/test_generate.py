"""`ifuvit generate`: files, names, metadata, the page, and one line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ifuvit.commands import generate
from ifuvit.diffusion.settings import PAPER_SETTINGS, SamplingSettings
from ifuvit.evaluation import generation, networks
from ifuvit.evaluation.generate import GenerateConfig, all_prompts, file_name
from ifuvit.evaluation.targets import open_target
from ifuvit.metrics.counting.parsing import parse_prompt
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.metrics.counting.scores import Detection
from ifuvit.reporting import gallery
from ifuvit.results import Counter
from ifuvit.shipped import find
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError


def draw(model, out, *arguments, steps=("--steps", "2")):
    generate.main([*arguments, "--model", model, "--out", str(out), *steps, "--device", "cpu"])
    return json.loads((out / "manifest.json").read_text())


def test_the_null_caption(model, tmp_path):
    """An empty prompt is an unconditional image."""
    manifest = draw(model, tmp_path / "out", "", "a bus")
    assert [image["prompt"] for image in manifest["images"]] == ["", "a bus"]
    assert (tmp_path / "out" / "0000.png").is_file()


def test_what_is_written(model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\ufeffa bus\n\n  two   sheep \n", encoding="utf-8")
    out = tmp_path / "out"
    odd = 'three <b>"red"</b> & apples ../..'
    manifest = draw(
        model, out, odd, "--prompts-file", str(tmp_path / "prompts.txt"), "--images-per-prompt", "2", "--seed", "5",
        "--guidance-scale", "2.5", "--negative-prompt", "grass", "--batch-size", "4",
    )  # fmt: skip
    assert capsys.readouterr().out == f"{out / 'index.html'}: 6 images; the grid is {out / 'grid.png'}\n"
    names = [image["file"] for image in manifest["images"]]
    assert names[:3] == ["0000-three-b-red-b-apples.png", "0001-three-b-red-b-apples.png", "0002-a-bus.png"]
    assert [image["prompt"] for image in manifest["images"]] == [odd, odd, "a bus", "a bus", "two sheep", "two sheep"]
    assert {path.name for path in out.iterdir()} == {*names, "grid.png", "index.html", "manifest.json"}
    assert manifest["command"] == "generate" and manifest["sampling"]["guidance_scale"] == 2.5
    assert manifest["config"]["sampling"] == manifest["sampling"] and manifest["complete"]
    assert re.fullmatch("[0-9a-f]{64}", manifest["sha256"])

    with Image.open(out / names[1]) as image:
        assert image.size == (8, 8) and image.mode == "RGB"
        facts = dict(image.text)
    facts.pop("Software")
    settings = to_dict(SamplingSettings(steps=2, guidance_scale=2.5))
    assert facts == {
        "prompt": odd, "negative_prompt": "grass", "seed": "5", "index": "1", "model": model,
        **{name: str(value) for name, value in settings.items()},
    }  # fmt: skip

    page = (out / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 6 and not re.search(r'(src|href)="(?!data:)', page)
    assert "three &lt;b&gt;&quot;red&quot;&lt;/b&gt; &amp; apples ../.." in page and "<b>" not in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_images_do_not_depend_on_the_batch_size(model, tmp_path):
    prompts = ["a bus", "two sheep", "a bus"]
    arrays = []
    for size in ("1", "3"):
        manifest = draw(model, tmp_path / size, *prompts, "--batch-size", size)
        arrays.append([np.asarray(Image.open(tmp_path / size / i["file"])).astype(int) for i in manifest["images"]])
    assert np.abs(np.subtract(*arrays)).max() <= 1


def test_exact_is_the_papers_sampling(model, tmp_path):
    exact = draw(model, tmp_path / "exact", "a bus", "--exact", steps=())
    paper = draw(model, tmp_path / "paper", "a bus", steps=("--steps", "50", "--initial-latents", "noise"))
    assert exact["sampling"] == paper["sampling"] == to_dict(PAPER_SETTINGS)
    fewer = draw(model, tmp_path / "fewer", "a bus", "--exact", steps=("--steps", "2"))
    assert fewer["sampling"] == {**to_dict(PAPER_SETTINGS), "steps": 2}
    ours, theirs = (np.asarray(Image.open(tmp_path / name / "0000-a-bus.png")) for name in ("exact", "paper"))
    assert np.array_equal(ours, theirs)


def test_two_models_side_by_side(model, tmp_path, monkeypatch):
    """The other model's images are what it draws alone with the same seed; the page and the grid show pairs."""
    other, out = shutil.copytree(find(model), tmp_path / "other"), tmp_path / "out"
    (other / "transformer" / "checksums.json").unlink()
    weights = load_file(other / "transformer" / "model.safetensors")
    save_file({name: 0.9 * weight for name, weight in weights.items()}, other / "transformer" / "model.safetensors")
    draw(model, out, "a bus", "two sheep", "--beside", str(other), "--seed", "3")
    draw(str(other), tmp_path / "alone", "a bus", "two sheep", "--seed", "3")
    for name in ("0000-a-bus.png", "0001-two-sheep.png"):
        mine, beside, alone = (
            np.asarray(Image.open(folder / name)) for folder in (out, out / "beside-other", tmp_path / "alone")
        )
        assert np.array_equal(beside, alone) and not np.array_equal(beside, mine)
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 2 and page.count("data:image/png;base64,") == 4
    assert f"left: {model}<br>right: {other}" in page
    monkeypatch.setattr(gallery, "_EMBED_BYTES", 10)
    gallery.write_gallery(out)
    assert (
        'src="0000-a-bus.png"' in (page := (out / "index.html").read_text())
        and 'src="beside-other/0000-a-bus.png"' in page
    )
    with Image.open(out / "grid.png") as grid, Image.open(tmp_path / "alone" / "grid.png") as single:
        assert grid.width > 1.8 * single.width

    with pytest.raises(InputError, match="no-such-model"):
        draw(model, out, "a bus", "--beside", "no-such-model")
    assert (out / "0001-two-sheep.png").is_file()
    draw(model, out, "a bus")
    assert not (out / "beside-other").exists()


def test_large_outputs_refer_to_files(model, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_EMBED_BYTES", 10)
    draw(model, tmp_path / "out", "a bus")
    assert 'src="0000-a-bus.png"' in (tmp_path / "out" / "index.html").read_text()


def test_an_earlier_output_is_replaced_and_nothing_else(model, tmp_path):
    out = tmp_path / "out"
    draw(model, out, "a bus", "two sheep")
    (out / "notes.txt").write_text("mine")
    draw(model, out, "an apple")
    assert {path.name for path in out.iterdir()} == {
        "0000-an-apple.png", "grid.png", "index.html", "manifest.json", "notes.txt",
    }  # fmt: skip
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").touch()
    with pytest.raises(InputError, match="holds something else"):
        draw(model, tmp_path / "photos", "a bus")


def test_a_run_that_fails_takes_nothing_away(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    draw(model, out, "a bus", "two sheep")
    before = sorted(out.iterdir())
    spoiled = shutil.copytree(model, tmp_path / "spoiled")
    (spoiled / "pipeline" / "transformer" / "model.safetensors").write_bytes(b"short")
    for directory in (out, tmp_path / "new"):
        with pytest.raises(InputError, match="not a readable safetensors file"):
            draw(str(spoiled), directory, "an apple")
    assert sorted(out.iterdir()) == before and not (tmp_path / "new").exists()

    # interrupted after one image, it can be started again
    monkeypatch.setattr(generation, "write_png", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw(model, out, "an apple")
    monkeypatch.undo()
    assert draw(model, out, "three apples")["complete"]
    assert sorted(path.name for path in out.glob("0*")) == ["0000-three-apples.png"]


def test_default_directory_is_a_new_one(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in ("0001", "0002"):
        generate.main(["a bus", "--model", model, "--steps", "1", "--device", "cpu"])
        assert (tmp_path / "generated" / number / "grid.png").is_file()


def test_long_prompts_give_a_warning_on_one_line(model, tmp_path, capsys):
    long = "a red bus left of three sheep on grass"
    draw(model, tmp_path / "out", long, "a bus", long + " right", "--batch-size", "1")
    assert capsys.readouterr().err == (
        "ifuvit: warning: 2 of 3 prompts are longer than the text encoder's 8 tokens: their ends are ignored\n"
    )
    draw(model, tmp_path / "out", "a bus", "--negative-prompt", long)
    assert capsys.readouterr().err == (
        "ifuvit: warning: 1 of 1 negative prompts are longer than the text encoder's 8 tokens: their ends are ignored\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompts"),
        (["--prompts-file", "missing.txt"], "missing.txt: no such file"),
        (["--prompts-file", "empty.txt"], "empty.txt: has no prompts"),
        (["--prompts-file", "binary.txt"], "binary.txt: not a UTF-8 text file"),
        (["--prompts-file", "."], "is a directory"),
        (["a bus", "--solver", "magic"], "--solver"),
        (["--prompt-set", "all"], "--prompt-set"),
        (["a bus", "--steps", "0"], "--steps 0: must be from 1 to 1000"),
        (["a bus", "--steps", "2000"], "from 1 to 1000"),
        (["a bus", "--steps", "many"], "--steps"),
        (["a bus", "--batch-size", "0"], "--batch-size 0"),
        (["a bus", "--images-per-prompt", "-1"], "--images-per-prompt -1"),
        (["a bus", "--seed", "-1"], "--seed -1"),
        (["a bus", "--guidance-scale", "nan"], "--guidance-scale nan"),
        (["a bus", "--guidance-interval", "0.8", "0.3"], "--guidance-interval 0.8 0.3"),
        (["a bus", "--exact", "--guidance-interval", "0.2", "0.8"], "leave out --guidance-interval"),
        (["a bus", "--exact", "--dtype", "bfloat16"], "leave out --dtype bfloat16"),
        (["a bus", "--exact", "--initial-latents", "data-mean"], "leave out --initial-latents"),
        (["a bus", "--model", "magic"], "no model 'magic'"),
        (["a bus", "--out", "empty.txt/below"], "empty.txt is a file"),
        (["a bus", "--out", "empty.txt"], "empty.txt: is a file"),
        (["a bus", "--device", "abacus"], "--device abacus: cannot be used here"),
    ],
)
def test_mistakes_get_one_line(refusal, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    arguments = arguments if "--model" in arguments else [*arguments, "--model", model]
    assert message in refusal("generate", *arguments)
    assert not list(tmp_path.rglob("*.png"))


def test_prompts_keep_their_order(tmp_path):
    (tmp_path / "p.txt").write_text("c\nd\n")
    config = GenerateConfig(prompts=("b", "a  a"), prompts_file=tmp_path / "p.txt", prompt_set="paper")
    assert all_prompts(config) == ["b", "a a", "c", "d", *PROMPT_SETS["paper"]]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Two Sheep, on grass!", "0007-two-sheep-on-grass.png"),
        ("../../etc/passwd", "0007-etc-passwd.png"),
        ("ein Käfer", "0007-ein-kafer.png"),
        ("三只羊", "0007.png"),
        ("con\x00\n:*?|" + "x" * 500, "0007-con-" + "x" * 44 + ".png"),
    ],
)
def test_file_names_are_safe(prompt, name):
    assert file_name(7, 100, prompt) == name
    assert file_name(7, 30_000, prompt).startswith("00007")


def test_help_needs_no_heavy_import():
    code = (
        "import sys, contextlib, ifuvit.commands.generate as g\n"
        "with contextlib.suppress(SystemExit): g.main(['--help'])\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]" and "s = w - 1" in " ".join(result.stdout.replace("│", " ").split())


class Agrees:
    """A counter that finds what was asked for from the third draw of an image on, and never for "two sheep"."""

    every_kind, threshold, name, sha256 = True, 0.5, "agreeing", "ab"

    def parse(self, prompt):
        return parse_prompt(prompt)

    def find(self, files, asked, *, threshold):
        found = []
        for file, one in zip(files, asked):
            with Image.open(file) as image:
                draw = int(image.text["index"]) // 3
            found.append([Detection(one.kind, 1, 1, 0.9)] * (one.count if draw >= 2 and one.count != 2 else 0))
        return found

    def facts(self):
        return Counter(name=self.name)


def test_verify_draws_again_until_the_counter_agrees(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_counter", lambda **_: Agrees())
    prompts = ["a bus", "two sheep", "two red sheep"]
    manifest = draw(model, tmp_path / "out", *prompts, "--verify", "3")
    images = manifest["images"]
    assert [(one["index"], one["draws"], one["verified"]) for one in images] == [
        (6, 3, True),
        (10, 4, False),
        (2, 1, None),
    ]
    assert manifest["verified_by"] == {"counter": "agreeing", "sha256": "ab", "redraws": 3}
    told = capsys.readouterr()
    assert "1 of 2 images show what was asked, 2 were drawn again, 1 have prompts that it cannot read" in told.out
    assert told.err.count("images are drawn again") == 3
    assert "chosen by the counter" in (tmp_path / "out" / "index.html").read_text()
    # What was kept is the image of its index.
    seven = draw(model, tmp_path / "more", *["a bus"] * 7)
    ours, theirs = (
        np.asarray(Image.open(tmp_path / place)).astype(int)
        for place in ("out/" + images[0]["file"], "more/" + seven["images"][6]["file"])
    )
    assert np.abs(ours - theirs).max() <= 1
    with pytest.raises(InputError, match="drawn again until the counter agreed"):
        open_target(str(tmp_path / "out"), device=torch.device("cpu"))

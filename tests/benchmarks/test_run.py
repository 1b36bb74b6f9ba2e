"""`ifuvit bench`: the file, the table, and one line for mistakes."""

import json
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
from stand_in_uvit import write_checkout
from tiny_pipeline import write_tiny_pipeline
from tiny_training import MODEL

from ifuvit.benchmarks import run as bench
from ifuvit.benchmarks.config import BenchScalingConfig
from ifuvit.commands import bench as command
from ifuvit.model.flops import forward_flops
from ifuvit.model.settings import as_uvit
from ifuvit.results import Benchmark, from_file
from ifuvit.utils.errors import InputError

PRESETS = {"concat-early": as_uvit(MODEL), "cross-intermediate": MODEL, "deep": replace(MODEL, depth=4)}
QUICK = ["--rounds", "6", "--warmup", "2", "--min-seconds", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch):
    for home in ("ifuvit.model.presets", "ifuvit.training.config", "ifuvit.benchmarks.config"):
        monkeypatch.setattr(f"{home}.presets", PRESETS)


@pytest.fixture
def checkout(tmp_path):
    return str(write_checkout(tmp_path / "checkout"))


def measured(tmp_path, action, *arguments):
    out = tmp_path / "result.json"
    command.main([action, *QUICK, "--out", str(out), *arguments])
    from_file(out, Benchmark)
    return json.loads(out.read_text())


def check_rows(rows):
    """What every row's numbers have to do with each other."""
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        seconds = row["seconds"]
        assert len(seconds["rounds"]) == 6 and seconds["median"] == statistics.median(seconds["rounds"])
        low, high = seconds["quartiles"]
        assert min(seconds["rounds"]) <= low <= seconds["median"] <= high <= max(seconds["rounds"])
        assert row["steps_per_second"] == pytest.approx(1 / seconds["median"])
        assert row["items_per_second"] == pytest.approx(row["items"] / seconds["median"])
        if row["flops"] is not None:
            assert row["flops_per_second"] == pytest.approx(row["flops"] / seconds["median"])
        if row["speedup"] is not None:
            base = by_name[row["speedup"]["over"]]["seconds"]["rounds"]
            ratios = [theirs / mine for mine, theirs in zip(seconds["rounds"], base)]
            assert row["speedup"]["value"] == pytest.approx(statistics.median(ratios))
            assert row["speedup"]["interval"] == pytest.approx([min(ratios), max(ratios)])


def test_train_against_a_checkout(tmp_path, capsys, checkout):
    result = measured(tmp_path, "train", "--batch-size", "2", "--precision", "fp32", "bf16", "--against", checkout)
    assert result["command"] == "bench train" and result["config"]["batch_size"] == 2
    assert set(result["comparisons"]) == {"fp32", "bf16"}
    for contest in result["comparisons"].values():
        rows = contest["rows"]
        assert [row["name"] for row in rows] == ["U-ViT", "concat-early", "cross-intermediate"]
        check_rows(rows)
        assert rows[2]["flops"] == 6 * forward_flops(MODEL).total and rows[0]["flops"] == rows[1]["flops"]
        for row in rows:
            assert row["share_of_peak"] == row["flops_per_second"] / contest["peak"]["flops_per_second"]
        assert contest["peak"]["flops_per_second"] == max(contest["peak"]["products"].values())
    assert result["reference"]["attention"] == "stand-in"
    # The stand-in is that setting.
    assert result["comparisons"]["fp32"]["differences"] == {"from_uvit": {"concat-early": 0}}
    assert {"device", "name", "torch", "threads"} <= set(result["hardware"])
    assert result["process_peak_memory"] > 2**20
    printed = capsys.readouterr().out
    assert "times as fast as U-ViT" in printed and "fp32; peak" in printed and "bf16; peak" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_train_alone_compares_with_the_first(tmp_path, capsys):
    result = measured(tmp_path, "train", "--settings", "cross-intermediate", "concat-early", "--precision", "fp32")
    assert list(result["comparisons"]) == ["fp32"] and result["reference"] is None
    first, second = result["comparisons"]["fp32"]["rows"]
    assert first["speedup"] is None and second["speedup"]["over"] == "cross-intermediate"
    assert "times as fast as cross-intermediate" in capsys.readouterr().out


def test_sample(tmp_path, checkout):
    names = ("concat-early", "cross-intermediate")
    result = measured(tmp_path, "sample", "--batch-size", "2", "--precision", "fp32", "--against", checkout)
    rows = result["comparisons"]["fp32"]["rows"]
    check_rows(rows)
    assert [row["name"] for row in rows][:3] == ["U-ViT", "concat-early, plain", "concat-early, shared"]
    differences = result["comparisons"]["fp32"]["differences"]
    assert differences["from_uvit"] == {"concat-early": 0} and set(differences["from_plain"]) == set(names)
    assert all(difference < 1e-5 for difference in differences["from_plain"].values())
    assert not any("gradient" in name for name in result["comparisons"]["fp32"]["peak"]["products"])


def test_generate(tmp_path, checkout):
    run = write_tiny_pipeline(tmp_path / "run")
    arguments = ["--model", str(run), "--steps", "2", "5", "--guidance-interval", "0.3", "0.8", "--batch-size", "2"]
    result = measured(tmp_path, "generate", *arguments, "--precision", "fp32", "bf16", "--against", checkout)
    assert list(result["comparisons"]) == ["fp32", "bf16"] and result["reference"]["attention"] == "stand-in"
    rows = result["comparisons"]["bf16"]["rows"]
    check_rows(rows)
    guided = [f"{steps} steps, guided from 0.3 to 0.8" for steps in (5, 2)]
    assert [row["name"] for row in rows] == ["U-ViT, 5 steps", "5 steps", "2 steps", *guided]
    assert {row["speedup"]["over"] for row in rows[1:]} == {"U-ViT, 5 steps"} and rows[0]["speedup"] is None

    alone = measured(
        tmp_path, "generate", *arguments[:5], "--precision", "fp32", "--solver", "unipc", "--guidance-scale", "3"
    )
    rows = alone["comparisons"]["fp32"]["rows"]
    assert [row["name"] for row in rows] == [f"{steps} steps of unipc, guidance_scale 3.0" for steps in (5, 2)]
    assert rows[1]["speedup"]["over"] == rows[0]["name"]


@pytest.mark.parametrize(("bf16", "precisions"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_default_precision_is_what_the_device_does_well(tmp_path, monkeypatch, bf16, precisions):
    monkeypatch.setattr(bench, "use_bf16", lambda precision, device: bf16)
    result = measured(tmp_path, "train", "--settings", "concat-early", "--batch-size", "1")
    assert list(result["comparisons"]) == result["config"]["precision"] == precisions


def test_scaling(tmp_path, capsys):
    sizes = ["--image-tokens", "4", "64", "--depth", "4", "--axis", "image-tokens", "depth"]
    result = measured(tmp_path, "scaling", *sizes, "--precision", "fp32", "--settings", "concat-early")
    steps = ("training", "guided sampling")
    assert list(result["comparisons"]) == [
        f"{kind} steps by {axis}, fp32" for kind in steps for axis in ("image tokens", "depth")
    ]
    comparison = result["comparisons"]["training steps by image tokens, fp32"]
    check_rows(comparison["rows"])
    rows = {row["name"]: row for row in comparison["rows"]}
    assert list(rows) == ["concat-early, 4", "concat-early, 16", "concat-early, 64"]  # 16 is the preset's own
    series = comparison["scaling"]["settings"]["concat-early"]
    for point in series["points"]:
        row = rows[f"concat-early, {point['value']}"]
        assert point["flops"] == row["flops"]
        base = rows["concat-early, 16"]["seconds"]["rounds"]
        ratios = [mine / own for mine, own in zip(row["seconds"]["rounds"], base)]
        assert point["relative_seconds"]["value"] == pytest.approx(statistics.median(ratios))
    assert series["at"] == 16 and series["points"][1]["relative_seconds"]["value"] == 1
    assert "concat-early: seconds ~ FLOPs ^ " in capsys.readouterr().out
    plot = (tmp_path / "result.svg").read_text()
    assert "Training steps by image tokens" in plot and "concat-early: FLOPs" in plot


@pytest.mark.parametrize(("bf16", "precision"), [(True, ("bf16",)), (False, ("fp32",))])
def test_default_precision_of_scaling(tmp_path, bf16, precision):
    assert BenchScalingConfig(out=tmp_path / "result.json").settled(bf16=bf16).precision == precision


def test_threads_are_put_back(tmp_path):
    import torch

    before = torch.get_num_threads()
    result = measured(tmp_path, "train", "--precision", "fp32", "--threads", str(before + 1))
    assert result["hardware"]["threads"] == before + 1 and torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], "unknown action 'fly'; the actions are train, sample, generate, onnx, scaling"),
        (["train"], "--out"),
        (["train", "--settings", "concat-late"], "--settings concat-late: unknown; the presets are concat-early"),
        (["train", "--settings", "concat-early", "deep"], "of different sizes"),
        (["sample", "--settings", "deep", "deep"], "none twice"),
        (["sample", "--precision"], "name at least one"),
        (["train", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["train", "--rounds", "0"], "--rounds 0: must be at least 1"),
        (["train", "--threads", "0"], "--threads 0: must be at least 1"),
        (["train", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["train", "--against", "nowhere"], "nowhere: no libs/uvit_t2i.py there"),
        (["generate", "--steps", "0"], "--steps 0: must be from 1 to 1000"),
        (["generate", "--model", "nothing"], "nothing"),
        (["generate", "--guidance-interval", "0.5", "0.4"], "--guidance-interval 0.5 0.4: give shares"),
        (["scaling", "--image-tokens", "65"], "--image-tokens 65: not a square"),
        (["scaling", "--text-tokens", "0"], "--text-tokens 0: must be at least 1"),
        (["scaling", "--depth", "3"], "depth=3: must be even"),
        (["scaling", "--axis", "depth", "depth"], "--axis depth depth: name at least one, and none twice"),
        (["scaling", "--settings", "nothing"], "--settings nothing: unknown; the presets are concat-early"),
    ],
    ids=" ".join,
)
def test_mistakes(tmp_path, arguments, says):
    out = [] if arguments == ["train"] or arguments == ["fly"] else ["--out", str(tmp_path / "result.json")]
    with pytest.raises(InputError) as error:
        command.main([*arguments, *out])
    assert says in str(error.value) and not (tmp_path / "result.json").exists()


def test_out_that_is_a_directory(tmp_path):
    with pytest.raises(InputError, match="is a directory; give the name of a JSON file"):
        command.main(["train", "--out", str(tmp_path)])


def test_help_loads_nothing_heavy():
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules));"
    script += "from ifuvit.commands.bench import main; main(['--help'])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("usage: ifuvit bench ACTION") and printed.endswith("False\n")

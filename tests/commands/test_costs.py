"""`ifuvit costs`: the table and the JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from ifuvit.benchmarks.memory import memory_table
from ifuvit.commands import costs
from ifuvit.commands.costs import CostsConfig
from ifuvit.model.presets import presets
from ifuvit.utils.errors import InputError


def printed(ifuvit: Callable[..., Any], *arguments: str) -> str:
    ran = ifuvit("costs", *arguments)
    assert ran.status == 0
    return ran.out


def test_json(ifuvit: Callable[..., Any]) -> None:
    everything = json.loads(printed(ifuvit, "--json"))
    assert list(everything) == list(presets)
    for entry in everything.values():
        assert list(entry) == ["parameters", "gflops", "guided_step_gflops"]
        assert list(entry["gflops"]) == ["without_attention", "with_attention"]
        assert list(entry["guided_step_gflops"]) == ["plain", "shared"]
        assert entry["guided_step_gflops"]["shared"] < entry["guided_step_gflops"]["plain"]
    assert everything["cross-intermediate"] == {
        "parameters": 47_843_492,
        "gflops": {"without_attention": 23.59, "with_attention": 25.57},
        "guided_step_gflops": {"plain": 51.13, "shared": 42.2},
    }
    assert json.loads(printed(ifuvit, "--json", "--preset", "cross-early")) == {
        "cross-early": everything["cross-early"]
    }


def test_table(ifuvit: Callable[..., Any]) -> None:
    lines = printed(ifuvit).splitlines()
    assert len(lines) == 1 + len(presets)
    row = next(line for line in lines if line.startswith("concat-intermediate ")).split()
    assert row == ["concat-intermediate", "47,843,492", "25.77", "28.01", "56.02", "47.89"]
    assert max(map(len, lines)) <= 100


def test_changed_settings(ifuvit: Callable[..., Any]) -> None:
    early = json.loads(printed(ifuvit, "--preset", "cross-early", "--json"))["cross-early"]
    same = json.loads(printed(ifuvit, "--preset", "cross-intermediate", "--n-text", "0", "--n-image", "0", "--json"))[
        "cross-intermediate"
    ]
    assert same == early
    pair = json.loads(printed(ifuvit, "--preset", "cross-intermediate", "--n-image", "4", "0", "--json"))
    assert pair == costs.run(CostsConfig(preset="cross-intermediate", n_image=(4, 0)))
    assert pair["cross-intermediate"]["gflops"]["with_attention"] > 25.57


def test_small_models_keep_their_digits() -> None:
    assert costs.run(CostsConfig(preset="openmoji-concat-early"))["openmoji-concat-early"] == {
        "parameters": 3_584_488,
        "gflops": {"without_attention": 0.5464, "with_attention": 0.5817},
        "guided_step_gflops": {"plain": 1.1634, "shared": 1.1484},
    }


def test_training_memory() -> None:
    name = "openmoji-concat-early"
    told = costs.run(CostsConfig(preset=name, training_memory=True, batch_size=8))
    memory = told[name]["training_memory"]
    assert memory["batch_size"] == 8 and memory["precision"] == "bf16"
    assert memory["plain"]["weights"] >= 4 * 3_584_488
    assert memory["checkpointed"]["activations"] < memory["plain"]["activations"] < memory["plain"]["peak"]
    lines = memory_table(told)
    assert "batch 8, bf16" in lines[0] and max(map(len, lines)) <= 120
    peaks = [float(line.split()[-1]) for line in lines[-2:]]
    assert peaks == [round(memory[way]["peak"] / 2**30, 3) for way in ("plain", "checkpointed")]


def test_training_on_several_gpus(ifuvit: Callable[..., Any]) -> None:
    name = "openmoji-concat-early"
    arguments = ("--preset", name, "--batch-size", "16", "--gpus", "1", "8", "--steps", "1000", "--precision", "fp32")
    told = json.loads(printed(ifuvit, *arguments, "--json"))[name]["gpus"]
    one, eight = told["1"], told["8"]
    assert (one["images_per_gpu"], eight["images_per_gpu"]) == (16, 2)
    assert one["plain"]["replicated_peak"] == one["plain"]["sharded_peak"]
    assert eight["plain"]["activations"] == pytest.approx(one["plain"]["activations"] / 8, rel=0.25)
    # Seven eighths of five fp32 copies lie elsewhere; two blocks of the largest kind, 14 D² each, are gathered.
    saved = eight["plain"]["replicated_peak"] - eight["plain"]["sharded_peak"]
    assert saved == pytest.approx(20 * 3_584_488 * 7 / 8 - 2 * 4 * 14 * 192**2, rel=0.01)
    assert one["plain"]["days"] == pytest.approx(3 * 0.5817e9 * 16 * 1000 / 120e12 / 86_400, rel=1e-3)
    assert one["plain"]["days"] == pytest.approx(8 * eight["plain"]["days"])
    assert one["checkpointed"]["days"] == pytest.approx(one["plain"]["days"] * 4 / 3)
    lines = printed(ifuvit, *arguments).splitlines()
    assert "1,000 steps at an assumed 120 TFLOP/s a GPU" in lines[3] and lines[-1].split()[0] == "8"
    with pytest.raises(InputError, match="--batch-size 16: is not a multiple of --gpus 3"):
        costs.run(CostsConfig(preset=name, batch_size=16, gpus=(3,)))


def test_mistakes() -> None:
    with pytest.raises(InputError, match="--batch-size 0"):
        costs.run(CostsConfig(batch_size=0))
    with pytest.raises(InputError, match="unknown preset 'cross-late'.*cross-intermediate"):
        costs.run(CostsConfig(preset="cross-late"))
    with pytest.raises(InputError, match="n_image=7"):
        costs.run(CostsConfig(preset="cross-early", n_image=7))
    with pytest.raises(InputError, match="--n-text -1: must be at least 0"):
        costs.run(CostsConfig(n_text=-1))
    with pytest.raises(InputError, match="--n-image"):
        costs.main(["--n-image", "1", "2", "3"])

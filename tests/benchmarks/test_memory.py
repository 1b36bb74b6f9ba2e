"""Memory of training steps: what is counted without contents, against arithmetic and against a process that trains."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny_training import MODEL

from ifuvit.benchmarks.memory import META, LiveStorages, step_memory, training_memory
from ifuvit.benchmarks.training import step_config
from ifuvit.model.flops import parameters
from ifuvit.model.settings import IFUViTConfig

WIDER = replace(MODEL, latent_size=16, embed_dim=64, depth=4)


def counted(model=WIDER, **settings):
    return step_memory(step_config(model, **{"batch_size": 32, **settings}))


def test_storages_are_counted_once_and_while_they_live():
    with LiveStorages() as held:
        x = torch.empty(256, device=META)  # 1,024 bytes
        view = x[:8].view(2, 4)
        assert held.bytes == 1024
        del x
        assert held.bytes == 1024  # the view holds it
        y = view + view  # 32 bytes, a block
        assert held.bytes == 1536
        del view
        assert held.bytes == 512
        del y
    assert held.bytes == 0 and held.peak == 1536


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_and_what_stands_beside_them(precision):
    memory = counted(precision=precision)
    least = 4 * parameters(WIDER)
    for bytes_ in (memory.weights, memory.gradients, memory.average, memory.optimizer / 2):
        assert least <= bytes_ <= 1.25 * least  # small tensors take whole blocks
    held = memory.weights + memory.average + memory.optimizer + memory.batch
    assert memory.peak >= held + memory.activations


def test_activations_grow_with_the_batch_and_halve_with_the_precision():
    sizes = {n: counted(batch_size=n, precision="fp32").activations for n in (32, 64, 96)}
    assert sizes[96] - sizes[64] == pytest.approx(sizes[64] - sizes[32], rel=0.01)
    half = counted(batch_size=64, precision="bf16").activations
    assert 0.5 * sizes[64] < half < 0.75 * sizes[64]


def test_checkpointing_keeps_inputs_of_blocks():
    plain, checkpointed = counted(batch_size=256), counted(batch_size=256, gradient_checkpointing=True)
    assert plain.weights == checkpointed.weights and plain.gradients == checkpointed.gradients
    assert checkpointed.activations < 0.2 * plain.activations and checkpointed.peak < 0.5 * plain.peak


def test_attention_s_weights_are_not_held():
    """A hundred times the tokens squared would be."""
    wide = replace(WIDER, latent_size=64, num_heads=8)  # 1,024 patches
    scores = 4 * wide.num_heads * wide.num_patches**2
    assert counted(wide, batch_size=1, precision="fp32").activations < 13 * scores


def test_padding_hidden():
    hidden = counted(replace(WIDER, mask_padding=True))
    assert hidden.activations == pytest.approx(counted().activations, rel=0.1)


@pytest.mark.slow
def test_paper_size():
    """The paper's batch on one GPU of 80 GB, and of 16 GB with checkpointing."""
    told = training_memory(IFUViTConfig(), batch_size=256, precision="bf16")
    assert 10 * 2**30 < told["plain"]["peak"] < 72e9
    assert told["checkpointed"]["peak"] < 14e9
    sizes = [size for _, _, size in told["plain"]["largest"]]
    assert sizes == sorted(sizes, reverse=True) and 0.9 * told["plain"]["activations"] < sum(sizes)


_REAL = """
import json, re, sys
import torch
from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.training import random_batch
from ifuvit.model.uvit import IFUViT
from ifuvit.training.config import default_config
from ifuvit.training.step import TrainingStep

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

cpu = torch.device("cpu")
checkpointing = sys.argv[1] == "True"
config = default_config("openmoji-cross-intermediate", batch_size=64, precision="fp32")
model = IFUViT(config.recipe.model).train()
model.gradient_checkpointing = checkpointing
step = TrainingStep(config, model, make_accelerator("fp32", cpu))
batch = random_batch(config.recipe.model, 64, seed=0, device=cpu)
for number in range(2):
    step(batch, number)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
step(batch, 2)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_process_that_trains_takes_as_much(checkpointing):
    """In fp32 a processor holds what a GPU holds. Memory is given back at once, or pages left over would count."""
    from ifuvit.training.config import default_config

    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _REAL, str(checkpointing)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    config = default_config(
        "openmoji-cross-intermediate", batch_size=64, precision="fp32", gradient_checkpointing=checkpointing
    )
    memory = step_memory(config)
    held = memory.weights + memory.average + memory.optimizer + memory.batch
    assert memory.peak - held == pytest.approx(json.loads(told), rel=0.06)

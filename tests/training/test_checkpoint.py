import json

import pytest
import torch
from safetensors import SafetensorError
from tiny_training import MODEL

from ifuvit.model.uvit import IFUViT
from ifuvit.training import checkpoint
from ifuvit.training.ema import EMA
from ifuvit.utils.errors import InputError


def trainer(steps, config=MODEL):
    """A model, its average and its optimizer after some steps."""
    torch.manual_seed(0)
    model = IFUViT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.9), weight_decay=0.03, fused=True)
    ema = EMA(model, 0.9)
    for k in range(steps):
        step(model, ema, [optimizer], k)
    return model, ema, [optimizer]


def step(model, ema, optimizers, k):
    generator = torch.Generator().manual_seed(k)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()
    ema.update(k)


def a_checkpoint(value=0.0):
    tensors = {"w": torch.full((4,), value)}
    return checkpoint.Checkpoint(model=tensors, ema=tensors, optimizer=tensors, state={"step": int(value)})


def test_goes_on_bit_for_bit(tmp_path):
    model, ema, optimizers = trainer(3)
    checkpoint.write(
        tmp_path, 3, checkpoint.gather(model, ema, optimizers, {"step": 3, "pending": [[3, 0.1, 0.2]]}), keep=2
    )
    others = trainer(0)
    saved, damaged = checkpoint.read_newest(tmp_path)
    assert saved is not None and damaged == [] and saved.state == {"step": 3, "pending": [[3, 0.1, 0.2]]}
    checkpoint.restore(saved, *others)
    for k in (3, 4):
        step(model, ema, optimizers, k)
        step(*others, k)
    for mine, theirs in zip([*model.parameters(), *ema.average], [*others[0].parameters(), *others[1].average]):
        assert torch.equal(mine, theirs)
    whole = [checkpoint.gather(*parts, {}) for parts in ((model, ema, optimizers), others)]
    assert len(whole[0].optimizer) == 3 * len(list(model.parameters()))
    for name, tensor in whole[0].optimizer.items():
        assert torch.equal(tensor, whole[1].optimizer[name]), name


def test_restoring_does_not_touch_other_settings_of_the_optimizer(tmp_path):
    model, ema, optimizers = trainer(1)
    whole = checkpoint.gather(model, ema, optimizers, {})
    others = trainer(0)
    checkpoint.restore(whole, *others)
    group = others[2][0].param_groups[0]
    assert (
        tuple(group["betas"]) == (0.9, 0.9) and group["weight_decay"] == 0.03 and group["lr"] == 1e-2 and group["fused"]
    )
    assert group["params"][0] is next(others[0].parameters())


def test_old_ones_are_thinned_and_a_predecessor_stays(tmp_path):
    for s in (10, 20, 30):
        checkpoint.write(tmp_path, s, a_checkpoint(s), keep=2)
    assert checkpoint.saved_steps(tmp_path) == [20, 30]
    checkpoint.write(tmp_path, 40, a_checkpoint(40), keep=1)
    assert checkpoint.saved_steps(tmp_path) == [40]


def test_the_newest_stays_until_the_next_is_whole(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 10, a_checkpoint(10), keep=1)

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(SafetensorError):
        checkpoint.write(tmp_path, 20, a_checkpoint(20), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    saved, _ = checkpoint.read_newest(tmp_path)
    assert saved is not None and saved.state["step"] == 10


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_one_is_passed_over(tmp_path, file):
    for s in (10, 20):
        path = checkpoint.write(tmp_path, s, a_checkpoint(s), keep=2) / file
    path.write_bytes(path.read_bytes()[:-5])
    saved, damaged = checkpoint.read_newest(tmp_path)
    assert saved is not None and saved.state["step"] == 10
    assert len(damaged) == 1 and "step-00000020" in damaged[0]
    # The run goes on from 10 and saves at 15: that one must live, the damaged one must not take its place.
    checkpoint.write(tmp_path, 15, a_checkpoint(15), keep=1)
    assert checkpoint.saved_steps(tmp_path) == [15]


def test_none_readable(tmp_path):
    assert checkpoint.read_newest(tmp_path) == (None, [])
    for s in (10, 20):
        path = checkpoint.write(tmp_path, s, a_checkpoint(s), keep=2) / "ema.safetensors"
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no readable checkpoint: .*step-00000020"):
        checkpoint.read_newest(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    left_over = tmp_path / "checkpoints" / ".step-00000005.123.tmp"
    left_over.mkdir(parents=True)
    (left_over / "model.safetensors").write_bytes(b"half")
    assert checkpoint.saved_steps(tmp_path) == []
    checkpoint.write(tmp_path, 10, a_checkpoint(10), keep=1)
    assert not left_over.exists()


def test_of_another_model(tmp_path):
    from dataclasses import replace

    whole = checkpoint.gather(*trainer(1), {})
    for other in (replace(MODEL, embed_dim=32), replace(MODEL, depth=4)):
        with pytest.raises(InputError, match="does not fit this model") as caught:
            checkpoint.restore(whole, *trainer(0, other))
        assert "\n" not in str(caught.value)


def test_log_is_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    checkpoint.trim_log(path, 5)
    assert not path.exists()
    lines = [json.dumps({"step": s, "loss": 1.0}) for s in (2, 4, 4, 6)]
    path.write_text("\n".join(lines) + '\n{"step": 8, "lo')
    checkpoint.trim_log(path, 5)
    assert path.read_text().splitlines() == lines[:3] and path.read_text().endswith("\n")

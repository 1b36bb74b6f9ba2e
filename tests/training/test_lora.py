"""Training of adapters: the model stays as it was, RUN/pipeline and RUN/adapter are the same model, and it resumes."""

import pytest
import torch
from tiny_training import MODEL, tiny, write_features

from ifuvit.diffusion.objective import DDPM
from ifuvit.model.lora import load_adapter
from ifuvit.model.uvit import IFUViT
from ifuvit.training.config import AdamW, Muon, fine_tuning_config
from ifuvit.training.loop import train
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    return train(tiny(write_features(root / "data"), root / "run", steps=6))


@pytest.mark.parametrize("optimizer", [AdamW(learning_rate=1e-2), Muon(learning_rate=1e-2)])
def test_adapters_alone_are_trained(base, tmp_path, optimizer):
    data = write_features(tmp_path / "data", seed=1)
    settings = {"init_from": str(base), "lora_rank": 2, "lora_alpha": 4.0, "steps": 12, "optimizer": optimizer}
    run = train(tiny(data, tmp_path / "run", **settings))
    before, merged = IFUViT.from_pretrained(base), IFUViT.from_pretrained(run)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed and all(name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) for name in changed)
    load_adapter(before, run)
    assert all(
        torch.allclose(before.state_dict()[name], value, atol=1e-6) for name, value in merged.state_dict().items()
    )

    # Stopped and resumed is the same.
    train(tiny(data, tmp_path / "again", **{**settings, "steps": 12, "save_every": 6}))
    part = tiny(data, tmp_path / "part", **settings)
    import shutil

    shutil.copytree(tmp_path / "again", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step-00000012")
    train(part)
    both = [IFUViT.from_pretrained(tmp_path / name).state_dict() for name in ("again", "part")]
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_fine_tuning_takes_the_models_own_settings(base):
    config = fine_tuning_config(str(base))
    assert config.recipe.model == MODEL and config.recipe.objective == DDPM()
    assert config.recipe.start.init_from == str(base) and config.recipe.start.lora is None
    assert isinstance(config.recipe.optimizer, AdamW)


def test_refusals(base, tmp_path, refusal):
    out = [f"--out={tmp_path / 'run'}", f"--data={write_features(tmp_path / 'data')}"]
    assert "--lora-rank 4: adapts a model; give it with --init-from" in refusal(
        "train", "openmoji-cross-intermediate", "--lora-rank=4", *out
    )
    aligned = ("--init-from", base, "--lora-rank=4", "--align-to=effnet-lite0")
    assert "--align-to effnet-lite0 and --lora-rank 4: adapters alone" in refusal("train", "fine-tune", *aligned, *out)
    assert "--init-from is required: the model to fine-tune" in refusal("train", "fine-tune", *out)
    assert "no model '/nowhere'" in refusal("train", "fine-tune", "--init-from=/nowhere", *out)
    data = write_features(tmp_path / "wide", width=12)
    with pytest.raises(
        InputError, match=r"--lora-rank 2: context_embed.weight is not in .*adapters alone do not learn it"
    ):
        train(tiny(data, tmp_path / "other", text_width=12, init_from=str(base), lora_rank=2))

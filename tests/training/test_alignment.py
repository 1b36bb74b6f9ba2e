"""Frozen vision networks for alignment: places in their order, and what is no such network."""

from pathlib import Path

import pytest
import torch
import transformers

from ifuvit.training.alignment import FrozenFeatures
from ifuvit.utils.errors import InputError

CPU = torch.device("cpu")


def save(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28, patch_size=14, mlp_ratio=2))
    elif kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8))
    elif kind == "clip":
        vision, text = {**small, "image_size": 32, "patch_size": 8}, {**small, "vocab_size": 99}
        model = transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
        )
    elif kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        model = transformers.ResNetModel(config)
    else:
        model = transformers.BertModel(transformers.BertConfig(**small, vocab_size=99))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["dinov2", "vit", "clip", "resnet", "effnet-lite0"])
def test_a_feature_for_every_patch_in_its_place(tmp_path: Path, kind: str) -> None:
    name = kind if kind == "effnet-lite0" else str(save(tmp_path / "model", kind))
    features = FrozenFeatures(name, CPU)
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, :32, 32:] = 1.0  # the second image differs in the upper right quarter
    found = features(images, 4)
    assert found.shape == (2, 16, features.width) and not found.requires_grad
    change = (found[1] - found[0]).norm(dim=-1).view(4, 4)
    corner = change[:2, 2:].mean()
    assert corner > change[2:].mean() and corner > change[:2, :2].mean()
    assert len(features.fingerprint) == 64
    assert torch.allclose(features(images[1:], 4), found[1:], atol=1e-4)


def test_what_is_no_vision_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="align_to=.* takes no images"):
        FrozenFeatures(str(save(tmp_path / "bert", "bert")), CPU)
    with pytest.raises(InputError, match="vision model dino: no such folder; give effnet-lite0"):
        FrozenFeatures("dino", CPU)

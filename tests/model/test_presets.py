"""The presets: the paper's four settings and those made after them."""

import pytest
import torch

from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

PAPER = ["concat-early", "concat-intermediate", "cross-early", "cross-intermediate"]


def count(config: IFUViTConfig) -> int:
    with torch.device("meta"):  # nothing is allocated
        return sum(p.numel() for p in IFUViT(config).parameters() if p.requires_grad)


def test_names() -> None:
    assert sorted(presets) == sorted(PAPER + [f"{n}-deep" for n in PAPER] + [f"openmoji-{n}" for n in PAPER])


@pytest.mark.parametrize("name", sorted(presets))
def test_the_name_tells_the_setting(name: str) -> None:
    config = presets[name]
    early = "early" in name
    assert config.conditioning == ("concat" if "concat" in name else "cross")
    assert config.n_text == (0 if early else 1)
    assert config.num_fused == (config.depth + 1 if early else {"openmoji": 3}.get(name.split("-")[0], 5))
    assert config.cross_attention == "added" and config.mask_padding == name.startswith("openmoji")


@pytest.mark.parametrize("name", PAPER)
def test_paper_size(name: str) -> None:
    """Table 1: 45M and 48M parameters; U-ViT's own module has 44,692,644."""
    config = presets[name]
    assert count(config) == (44_692_644 if "early" in name else 47_843_492)
    assert (config.latent_channels, config.latent_size, config.patch_size) == (4, 32, 2)
    assert (config.embed_dim, config.num_heads, config.depth, config.mlp_ratio) == (512, 8, 12, 4)
    assert (config.text_tokens, config.text_width) == (77, 768)
    assert config.num_patches == 256
    assert config.n_image == (0 if "early" in name else 4)


@pytest.mark.parametrize("name", PAPER)
def test_deep(name: str) -> None:
    assert presets[f"{name}-deep"].depth == 16
    assert presets[f"{name}-deep"].n_image == (0 if "early" in name else 6)
    assert count(presets[f"{name}-deep"]) > count(presets[name])


@pytest.mark.parametrize("name", PAPER)
def test_openmoji(name: str) -> None:
    config = presets[f"openmoji-{name}"]
    assert (config.latent_channels, config.latent_size, config.text_tokens, config.text_width) == (4, 16, 16, 384)
    assert count(config) <= 6_000_000


def test_all_four_settings_of_a_size_hold_the_same_backbone() -> None:
    """Settings of one size differ in their text block alone."""
    for suffix, prefix in (("", ""), ("-deep", ""), ("", "openmoji-")):
        sizes = {name: count(presets[f"{prefix}{name}{suffix}"]) for name in PAPER}
        assert sizes["concat-early"] == sizes["cross-early"]
        assert sizes["concat-intermediate"] == sizes["cross-intermediate"]
        d = presets[f"{prefix}concat-early{suffix}"].embed_dim
        assert sizes["cross-intermediate"] - sizes["cross-early"] == 12 * d * d + 10 * d


def test_read_only() -> None:
    with pytest.raises(TypeError):
        presets["mine"] = IFUViTConfig()  # type: ignore[index]

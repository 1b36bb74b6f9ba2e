"""The presets: the paper's four settings and those made after them."""

import pytest
import torch

from ifuvit.model.blocks import JointBlock
from ifuvit.model.presets import PUBLISHED, presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

PAPER = ["concat-early", "concat-intermediate", "cross-early", "cross-intermediate"]

DEEP, OPENMOJI = [f"{n}-deep" for n in PAPER], [f"openmoji-{n}" for n in PAPER]

LARGE = {"uvit-m": 131e6, "uvit-l": 287e6, "uvit-h": 501e6, "uvit-1b": 1000e6}
"""Parameters as U-ViT's Table 1 has them, without text; and about a billion."""


def count(config: IFUViTConfig) -> int:
    with torch.device("meta"):  # nothing is allocated
        return sum(p.numel() for p in IFUViT(config).parameters() if p.requires_grad)


def test_names() -> None:
    others = [*LARGE, *(f"{n}-intermediate" for n in LARGE), *PUBLISHED, *(f"openmoji-{n}" for n in PUBLISHED)]
    assert sorted(presets) == sorted(PAPER + DEEP + OPENMOJI + others)


@pytest.mark.parametrize("name", PAPER + DEEP + OPENMOJI)
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
    assert (config.latent_channels, config.latent_size, config.text_tokens, config.text_width) == (8, 16, 16, 1152)
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_placements(name: str) -> None:
    """Which blocks see text; what each leaves out of the original is written down; the small one trains on a CPU."""
    config, doc = presets[name], PUBLISHED[name].__doc__
    assert doc is not None and "Left out: " in doc
    assert config.image_only == {"lumina2": (2, 0), "ddt": (0, 3)}.get(name, (0, 0))
    assert config.n_text == (2 if name == "lumina2" else 0)
    with torch.device("meta"):
        model = IFUViT(config)
    doubles = sum(isinstance(block, JointBlock) for _, block in model.fused_blocks())
    assert doubles == {"sd3": 13, "flux": 4}.get(name, 0)
    # MM-DiT in every block doubles the weights of its blocks; modulation by block adds a quarter to the others.
    assert 40e6 < count(config) < (130e6 if name in ("sd3", "flux") else 75e6)
    assert count(presets[f"openmoji-{name}"]) < 12e6


@pytest.mark.parametrize("name", LARGE)
def test_large_sizes_build_on_the_meta_device(name: str) -> None:
    early, middle = presets[name], presets[f"{name}-intermediate"]
    assert early.conditioning == "concat" and early.num_fused == early.depth + 1
    assert middle.conditioning == "cross" and middle.n_text == 1 and 0 < middle.image_only[0] == middle.depth // 3
    assert count(early) == pytest.approx(LARGE[name], rel=0.025)
    assert count(middle) - count(early) == 12 * early.embed_dim**2 + 10 * early.embed_dim  # the text block

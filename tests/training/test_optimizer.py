"""Which parameters an optimizer gets, and what Muon does with a matrix."""

from dataclasses import replace

import torch
from tiny_training import MODEL

from ifuvit.model.uvit import IFUViT
from ifuvit.training.config import AdamW, Muon
from ifuvit.training.muon import Muon as Orthogonalizing
from ifuvit.training.optimizer import make_optimizers

CPU = torch.device("cpu")


def names_of(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in held}


def test_adamw_has_all_parameters() -> None:
    model = IFUViT(MODEL)
    ((optimizer, peak),) = make_optimizers(AdamW(learning_rate=1e-3), model, CPU).items()
    assert names_of(model, optimizer) == {name for name, _ in model.named_parameters()} and peak == 1e-3


def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = IFUViT(MODEL)
    config = Muon(learning_rate=1e-3, muon_learning_rate=0.05, muon_momentum=0.9, muon_weight_decay=0.1)
    (muon, muon_peak), (adamw, adamw_peak) = make_optimizers(config, model, CPU).items()
    assert isinstance(muon, Orthogonalizing) and isinstance(adamw, torch.optim.AdamW)
    assert (muon_peak, adamw_peak) == (0.05, 1e-3)
    group = muon.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.1)
    matrices, rest = names_of(model, muon), names_of(model, adamw)
    assert matrices | rest == {name for name, _ in model.named_parameters()} and not matrices & rest
    assert {"text_blocks.0.attn.qkv.weight", "mid_block.mlp.fc1.weight", "out_blocks.0.skip_linear.weight"} <= matrices
    assert {"pos_embed", "context_embed.weight", "decoder_pred.weight", "final_layer.weight"} <= rest
    assert "patch_embed.proj.weight" in rest and "in_blocks.0.norm1.weight" in rest
    assert all(dict(model.named_parameters())[name].ndim == 2 for name in matrices)


def test_muon_steps_by_an_orthogonal_matrix() -> None:
    """Without weight decay the first step is the learning rate times a matrix with singular values near 1."""
    model = IFUViT(MODEL)
    muon, _ = make_optimizers(Muon(muon_learning_rate=0.1, muon_weight_decay=0.0), model, CPU)
    before = model.mid_block.attn.proj.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    muon.step()
    moved = (before - model.mid_block.attn.proj.weight.detach()) / 0.1
    assert ((torch.linalg.svdvals(moved) - 1).abs() < 0.5).all()


def test_parameters_without_gradients_are_left_out() -> None:
    model = IFUViT(replace(MODEL, text_norm="standardize"))
    (optimizer,) = make_optimizers(AdamW(), model, CPU)
    assert not {"text_norm.mean", "text_norm.std"} & names_of(model, optimizer)

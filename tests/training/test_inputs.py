"""What a run measures on its data before it begins."""

import numpy as np
import pytest
import torch
from tiny_training import MODEL, write_features

from ifuvit.data.encoded import EncodedDataset
from ifuvit.training.config import Recipe
from ifuvit.training.inputs import check_layouts, measure_text
from ifuvit.utils.config import set_fields
from ifuvit.utils.errors import InputError


def test_text_is_measured_over_tokens_without_padding(tmp_path) -> None:
    rng = np.random.default_rng(0)
    states = (3 + 2 * rng.standard_normal((40, 4, 8))).astype(np.float16)
    states[..., 5] = 1  # does not vary
    masks = np.zeros((40, 4), bool)
    masks[:, :3] = True
    states[~masks] = 1e4
    dataset = EncodedDataset.open(write_features(tmp_path / "data", states=states, masks=masks))
    mean, std = measure_text(dataset, None)
    real = states[masks].astype(np.float64)
    np.testing.assert_allclose(mean, real.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.delete(std, 5), np.delete(real.std(0), 5), rtol=1e-5)
    assert std[5] == 1 and mean.dtype == std.dtype == np.float32


def test_text_of_token_ids_is_encoded_first(tmp_path) -> None:
    masks = np.ones((40, 4), bool)
    dataset = EncodedDataset.open(write_features(tmp_path / "data", text="tokens", masks=masks))

    class Encoder:
        def encode(self, tokens) -> torch.Tensor:
            return torch.as_tensor(tokens.ids)[..., None].float() * torch.arange(1, 9)

    mean, _ = measure_text(dataset, Encoder())  # type: ignore[arg-type]
    ids = dataset.tokens(np.arange(40))[0]
    np.testing.assert_allclose(mean, ids.mean() * np.arange(1, 9), rtol=1e-5)


def test_layouts_fit_the_head_that_learns_them(tmp_path) -> None:
    dataset = EncodedDataset.open(write_features(tmp_path / "data"))
    recipe = set_fields(Recipe(model=MODEL), layout_weight=0.3)
    with pytest.raises(InputError, match="data: has no layouts; prepare it with --instances"):
        check_layouts(recipe, dataset, tmp_path / "data")
    dataset.has_layouts, dataset.layout_kinds = True, 42
    for kinds in (0, 41):
        with pytest.raises(InputError, match=f"layout_kinds={kinds}: .* has objects of 42 kinds"):
            check_layouts(set_fields(recipe, layout_kinds=kinds), dataset, tmp_path / "data")
    check_layouts(set_fields(recipe, layout_kinds=42), dataset, tmp_path / "data")

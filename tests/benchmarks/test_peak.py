"""The matrix products of a block, and the fastest of them."""

from dataclasses import replace

import pytest
import torch
from tiny_training import MODEL

from ifuvit.benchmarks.peak import Product, find_peak, product_cases, products
from ifuvit.benchmarks.timing import Timing

CONCAT = replace(MODEL, conditioning="concat", n_text=0, n_image=0)


def test_products_are_those_of_the_blocks() -> None:
    tokens, width, hidden = 1 + 16, 16, 64
    forward = products([MODEL], 3, training=False)
    assert forward == [
        Product(3 * tokens, width, 3 * width, "forward"),
        Product(3 * tokens, width, hidden, "forward"),
        Product(3 * tokens, hidden, width, "forward"),
    ]
    assert forward[1].flops == 2 * 3 * tokens * width * hidden
    assert len(products([MODEL], 3, training=True)) == 9
    assert {p.rows for p in products([CONCAT, MODEL], 3, training=False)} == {3 * (tokens + 4), 3 * tokens}
    assert products([MODEL, MODEL], 3, training=True) == products([MODEL], 3, training=True)


def test_the_three_products_are_those_of_a_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, randn = [], torch.randn

    def recorded(*arguments, **keywords):
        drawn.append(randn(*arguments, **keywords))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn", recorded)
    chosen = [Product(5, 3, 4, which) for which in ("forward", "input gradient", "weight gradient")]
    forward, inputs, weights = (
        case.prepare()() for case in product_cases(chosen, torch.float32, torch.device("cpu"), 1)
    )
    x, weight, gradient = drawn  # one set of operands for all three
    layer = torch.nn.Linear(3, 4, bias=False)
    layer.weight.data = weight
    x.requires_grad_()
    layer(x).backward(gradient)
    assert x.grad is not None and layer.weight.grad is not None
    torch.testing.assert_close(forward, layer(x))
    torch.testing.assert_close(inputs, x.grad)
    torch.testing.assert_close(weights, layer.weight.grad)


def test_precision_of_products() -> None:
    (case,) = product_cases([Product(5, 3, 4, "forward")], torch.bfloat16, torch.device("cpu"), 1)
    assert case.prepare()().dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert case.flops == 2 * 5 * 3 * 4


def test_the_peak_is_the_best_median_rate() -> None:
    chosen = [Product(5, 3, 4, "forward"), Product(5, 4, 3, "forward"), Product(10, 4, 3, "forward")]
    seconds = [(1, 1, 9), (2, 2, 0.1), (2, 1, 1)]
    timings = {p.name: Timing(seconds=s, steps=1, peak_memory=None) for p, s in zip(chosen, seconds)}
    best = find_peak(timings, chosen)
    assert best.of == chosen[2].name and best.flops_per_second == 240
    assert list(best.products.values()) == [120, 60, 240]

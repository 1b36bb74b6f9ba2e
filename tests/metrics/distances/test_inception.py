import pytest
import torch
from torch.nn import functional

from ifuvit.metrics.distances.inception import Inception2015

# Szegedy et al. 2015 (arXiv:1512.00567), Table 1, in finer steps as in TensorFlow's and torchvision's sources:
# channels and side of the output of each layer for images of 299 x 299.
SHAPES = {
    "Conv2d_1a_3x3": (32, 149),
    "Conv2d_2a_3x3": (32, 147),
    "Conv2d_2b_3x3": (64, 147),
    "maxpool1": (64, 73),
    "Conv2d_3b_1x1": (80, 73),
    "Conv2d_4a_3x3": (192, 71),
    "maxpool2": (192, 35),
    "Mixed_5b": (256, 35),
    "Mixed_5c": (288, 35),
    "Mixed_5d": (288, 35),
    "Mixed_6a": (768, 17),
    "Mixed_6b": (768, 17),
    "Mixed_6c": (768, 17),
    "Mixed_6d": (768, 17),
    "Mixed_6e": (768, 17),
    "Mixed_7a": (1280, 8),
    "Mixed_7b": (2048, 8),
    "Mixed_7c": (2048, 8),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = Inception2015().eval()
    for name, value in network.state_dict().items():
        # Random statistics and scales, so that a norm that is left out or mixed up is seen.
        if name.endswith("running_mean") or name.endswith("bn.bias"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    return network


def test_published_shapes(network):
    seen = {}
    for name in SHAPES:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: tuple(output.shape)})
        )
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)
    assert seen == {name: (1, channels, side, side) for name, (channels, side) in SHAPES.items()}
    assert list(seen) == list(SHAPES)


def test_published_numbers_of_parameters(network):
    """torchvision tells 23,834,568 for its Inception v3 of 1,000 classes without the auxiliary classifier; Keras tells
    21,802,784 without classifier, where each norm has a bias, a mean and a variance but no scale, and that 34,432 of
    them, the means and variances, are not trained."""
    weights = {name: value.numel() for name, value in network.named_parameters()}
    assert sum(weights.values()) == 23_834_568 + 8 * 2049
    channels = sum(number for name, number in weights.items() if name.endswith("bn.weight"))
    assert 2 * channels == 34_432
    classifier = sum(number for name, number in weights.items() if name.startswith("fc."))
    assert sum(weights.values()) - classifier - 2 * channels + 3 * channels == 21_802_784


def test_names_of_the_weight_file(network):
    names = set(network.state_dict())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    layers = {name.removesuffix(".conv.weight") for name in names if name.endswith(".conv.weight")}
    assert len(layers) == 94  # convolutions
    assert names == {"fc.weight", "fc.bias"} | {f"{layer}.conv.weight" for layer in layers} | {
        f"{layer}.bn.{part}" for layer in layers for part in norm
    }
    assert network.fc.weight.shape == (1008, 2048)
    assert {"Mixed_5b.branch3x3dbl_3", "Mixed_6a.branch3x3", "Mixed_6e.branch7x7dbl_5"} <= layers
    assert {"Mixed_7a.branch7x7x3_4", "Mixed_7b.branch3x3_2a", "Mixed_7c.branch3x3dbl_3b"} <= layers


def test_against_plain_functions(network):
    """The same features from the state dict alone, by functions written out layer after layer."""
    torch.manual_seed(1)
    images = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        features, expected = network(images), by_functions(network.state_dict(), images)
    assert features.std() > 1e-3
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)


def by_functions(state, x):
    def layer(name, x, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 0.001).sqrt() * scale + shift).relu()

    def average(x):
        # Sums of the 3 x 3 neighbors over how many there are: at the border fewer than nine.
        ones = torch.ones_like(x[:1, :1])
        kernel = torch.ones(1, 1, 3, 3)
        sums = functional.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).reshape(x.shape)
        return sums / functional.conv2d(ones, kernel, padding=1)

    def block_35(name, x):
        one = layer(f"{name}.branch1x1", x)
        five = layer(f"{name}.branch5x5_2", layer(f"{name}.branch5x5_1", x), padding=2)
        three = layer(f"{name}.branch3x3dbl_2", layer(f"{name}.branch3x3dbl_1", x), padding=1)
        three = layer(f"{name}.branch3x3dbl_3", three, padding=1)
        return torch.cat([one, five, three, layer(f"{name}.branch_pool", average(x))], 1)

    def block_17(name, x):
        wide, tall = (0, 3), (3, 0)
        one = layer(f"{name}.branch1x1", x)
        seven = layer(f"{name}.branch7x7_2", layer(f"{name}.branch7x7_1", x), padding=wide)
        seven = layer(f"{name}.branch7x7_3", seven, padding=tall)
        twice = layer(f"{name}.branch7x7dbl_2", layer(f"{name}.branch7x7dbl_1", x), padding=tall)
        twice = layer(f"{name}.branch7x7dbl_3", twice, padding=wide)
        twice = layer(f"{name}.branch7x7dbl_4", twice, padding=tall)
        twice = layer(f"{name}.branch7x7dbl_5", twice, padding=wide)
        return torch.cat([one, seven, twice, layer(f"{name}.branch_pool", average(x))], 1)

    def block_8(name, x, pooled):
        one = layer(f"{name}.branch1x1", x)
        three = layer(f"{name}.branch3x3_1", x)
        wide, tall = (
            layer(f"{name}.branch3x3_2a", three, padding=(0, 1)),
            layer(f"{name}.branch3x3_2b", three, padding=(1, 0)),
        )
        twice = layer(f"{name}.branch3x3dbl_2", layer(f"{name}.branch3x3dbl_1", x), padding=1)
        twice_wide = layer(f"{name}.branch3x3dbl_3a", twice, padding=(0, 1))
        twice_tall = layer(f"{name}.branch3x3dbl_3b", twice, padding=(1, 0))
        return torch.cat([one, wide, tall, twice_wide, twice_tall, layer(f"{name}.branch_pool", pooled)], 1)

    def largest(x, stride, padding=0):
        return functional.max_pool2d(x, 3, stride, padding)

    x = layer("Conv2d_1a_3x3", x, stride=2)
    x = layer("Conv2d_2b_3x3", layer("Conv2d_2a_3x3", x), padding=1)
    x = layer("Conv2d_4a_3x3", layer("Conv2d_3b_1x1", largest(x, 2)))
    x = largest(x, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block_35(name, x)
    three = layer("Mixed_6a.branch3x3dbl_2", layer("Mixed_6a.branch3x3dbl_1", x), padding=1)
    three = layer("Mixed_6a.branch3x3dbl_3", three, stride=2)
    x = torch.cat([layer("Mixed_6a.branch3x3", x, stride=2), three, largest(x, 2)], 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = block_17(name, x)
    three = layer("Mixed_7a.branch3x3_2", layer("Mixed_7a.branch3x3_1", x), stride=2)
    seven = layer("Mixed_7a.branch7x7x3_2", layer("Mixed_7a.branch7x7x3_1", x), padding=(0, 3))
    seven = layer("Mixed_7a.branch7x7x3_3", seven, padding=(3, 0))
    seven = layer("Mixed_7a.branch7x7x3_4", seven, stride=2)
    x = torch.cat([three, seven, largest(x, 2)], 1)
    x = block_8("Mixed_7b", x, average(x))
    x = block_8("Mixed_7c", x, largest(x, 1, padding=1))
    return x.mean((2, 3))

import pytest
import torch

from ifuvit.training.ema import EMA


def model_of(*values):
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
        model.bias.fill_(1.0)
    return model


@pytest.mark.parametrize("ramp", [False, True])
def test_is_the_hand_written_average(ramp):
    torch.manual_seed(0)
    model = model_of(1.0, 2.0)
    ema = EMA(model, 0.99, ramp=ramp)
    by_hand = [p.detach().double() for p in model.parameters()]
    for k in range(2000):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        ema.update(k)
        decay = min(0.99, (1 + k) / (10 + k)) if ramp else 0.99
        by_hand = [decay * a + (1 - decay) * p.detach().double() for a, p in zip(by_hand, model.parameters())]
    for average, expected in zip(ema.average, by_hand):
        assert torch.allclose(average.double(), expected, atol=1e-5)


def test_ramp_rises_to_the_decay():
    ema = EMA(model_of(0.0, 0.0), 0.999, ramp=True)
    decays = [ema.decay_at(k) for k in range(0, 20_000, 10)]
    assert decays[0] == 0.1 and decays == sorted(decays) and decays[-1] == 0.999 and max(decays) == 0.999
    assert EMA(model_of(0.0, 0.0), 0.999).decay_at(0) == 0.999


def test_applied_lends_the_average_and_takes_it_back():
    model = model_of(0.0, 0.0)
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(8.0)
    ema.update(0)
    with pytest.raises(KeyError), ema.applied():
        assert model.weight.tolist() == [[4.0, 4.0]]
        raise KeyError
    assert model.weight.tolist() == [[8.0, 8.0]] and ema.average[0].tolist() == [[4.0, 4.0]]
    assert model.weight.requires_grad and not ema.average[0].requires_grad


def test_averages_in_fp32():
    model = model_of(1.0, 1.0).bfloat16()
    ema = EMA(model, 0.9999)
    with torch.no_grad():
        model.weight.fill_(2.0)
    for k in range(10):
        ema.update(k)
    assert ema.average[0].dtype == torch.float32 and torch.allclose(ema.average[0], torch.tensor(2 - 0.9999**10))

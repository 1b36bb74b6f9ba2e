"""Encoders that cost nothing: `ifuvit.data.prepare` with values that can be computed by hand."""

import time

import torch

from ifuvit.encoders.text_encoder import Tokens


class FakeAutoencoder:
    """Mean and log-variance are averages of colors over 4x4 pixels."""

    channels, factor, image_size, fingerprint, reference = 2, 4, 12, "a" * 64, "fake-autoencoder"

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds

    def moments(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        small = torch.nn.functional.avg_pool2d(images, self.factor)
        return torch.cat([3 * small[:, :2] + 1, small[:, 1:] - 2], dim=1)


class FakeTextEncoder:
    """Ids are letters; a state depends on the letter and its place."""

    width, max_tokens, fingerprint, reference = 6, 8, "b" * 64, "fake-text-encoder"
    facts = {
        "reference": reference,
        "fingerprint": fingerprint,
        "width": width,
        "max_tokens": max_tokens,
        "layers": None,
    }

    def tokenize(self, captions) -> Tokens:
        ids = torch.zeros(len(captions), self.max_tokens, dtype=torch.int32)
        for row, caption in enumerate(captions):
            cut = caption[: self.max_tokens].encode()
            ids[row, : len(cut)] = torch.tensor(list(cut), dtype=torch.int32)
        return Tokens(ids, ids > 0, sum(len(caption) > self.max_tokens for caption in captions))

    def encode(self, tokens: Tokens) -> torch.Tensor:
        place = torch.arange(self.max_tokens)[None, :, None]
        return torch.sin(tokens.ids[:, :, None] + place + torch.arange(self.width) / 7.0)

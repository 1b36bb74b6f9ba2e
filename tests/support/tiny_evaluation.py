"""What the tests of evaluation while training share: features whose encoders are there, a few real images, and a judge
that only looks at how bright images are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_pipeline import TOKENS, write_text_encoder, write_vae
from tiny_training import MODEL, write_features

from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.evaluation.evaluators import Evaluators
from ifuvit.utils.distributed import in_order

PIXELS = 16
SETTINGS = {
    "model": replace(MODEL, text_width=16, text_tokens=TOKENS),
    "evaluate_every": 8,
    "evaluate_images": 5,
    "evaluate_steps": 2,
}
"""Fields for `tiny_training.tiny`, beside `evaluate_data`."""


def write_data(directory: Path) -> tuple[Path, Path]:
    """Features made with tiny encoders, and a folder of six captioned images."""
    autoencoder = Autoencoder.from_pretrained(write_vae(directory / "vae"))
    text_encoder = TextEncoder.from_pretrained(write_text_encoder(directory / "text"), max_tokens=TOKENS)
    rng = np.random.default_rng(0)
    features = write_features(
        directory / "features",
        width=16,
        masks=rng.random((40, TOKENS)) < 0.7,
        ids=rng.integers(1, 9, (40, TOKENS), dtype=np.int32),
        states=rng.standard_normal((40, TOKENS, 16)).astype(np.float16),
        null=(np.zeros((TOKENS, 16), np.float16), np.zeros(TOKENS, bool), np.zeros(TOKENS, np.int32)),
        autoencoder=autoencoder.fingerprint,
        autoencoder_reference=autoencoder.reference,
        text_encoder=text_encoder.fingerprint,
        reference=text_encoder.reference,
    )
    real = directory / "real"
    real.mkdir()
    for index, caption in enumerate(
        ["one sheep", "two buses", "red apple", "four apples", "bus left of apples", "bus"]
    ):
        Image.fromarray(rng.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)).save(real / f"{index}.png")
        (real / f"{index}.txt").write_text(caption)
    return features, real


class Brightness:
    """In the place of `Evaluators`."""

    def __init__(self, protocol, real, processes) -> None:
        self.protocol, self.processes = protocol, processes
        self.real = [file for file, _ in real.choose(protocol.num_images)]

    @classmethod
    def load(cls, protocol, real, *, device="cpu", weights=None, processes=None):
        return cls(protocol, real, processes)

    def distances(self, files):
        """Each process looks at its share, as the evaluators do."""

        def look():
            return np.array([np.asarray(Image.open(file)).mean() for file in self.processes.share(files)])

        brightness = in_order(self.processes.all_gather(look))
        return {"brightness": {"value": float(brightness.mean()), "interval": [0.0, 1.0]}}

    def alignment(self, files, captions):
        assert [file.name for file in files] == [f"{index:05d}.png" for index in range(len(captions))]
        return {"words": {"value": float(np.mean([len(caption.split()) for caption in captions]))}}


def install() -> None:
    """Let `Brightness` judge."""
    Evaluators.load = Brightness.load  # type: ignore[assignment]

"""What the tests of evaluation while training share: features whose encoders are there, a few real images, and evaluators
that only look at how bright images are and how long captions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_pipeline import TOKENS, write_text_encoder, write_vae
from tiny_training import MODEL, write_features

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.evaluation.evaluators.base import Findings, Setup, captions
from ifuvit.results import Metric
from ifuvit.training import evaluation
from ifuvit.utils.distributed import merge_shares

PIXELS = 16
SETTINGS = {
    "model": replace(MODEL, text_width=16, text_tokens=TOKENS),
    "evaluate_every": 8,
    "evaluate_images": 5,
    "evaluate_sampling": SamplingSettings(steps=2, guidance_scale=2.0),
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
    """An evaluator of how bright images are."""

    requires_reference = requires_captions = False

    def __init__(self, setup: Setup) -> None:
        self.setup, self.processes = setup, setup.processes

    def facts(self):
        return {}

    def image_sets(self):
        return [captions(self.setup)]

    def prepare(self):
        pass

    def __call__(self, images, target):
        """Each process looks at its share, as other evaluators do."""
        files = images["captions"].files

        def look():
            return np.array([np.asarray(Image.open(file)).mean() for file in self.processes.share(files)])

        brightness = merge_shares(self.processes.all_gather(look))
        metric = Metric(value=float(brightness.mean()), name="brightness", subject="distance", better=None)
        return Findings(metrics=(metric,))


class Words(Brightness):
    """An evaluator of how many words captions have."""

    def __call__(self, images, target):
        files, prompts = images["captions"].files, images["captions"].prompts
        assert [file.name for file in files] == [f"{index:05d}.png" for index in range(len(prompts))]
        words = float(np.mean([len(prompt.split()) for prompt in prompts]))
        return Findings(metrics=(Metric(value=words, name="words", subject="alignment", better=None),))


def install(setattr=setattr) -> None:
    """Let `Brightness` and `Words` measure while training."""
    setattr(evaluation, "find_evaluator", {"distances": Brightness, "alignment": Words}.__getitem__)

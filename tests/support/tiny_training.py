"""What the tests of training share: a features directory of a few kilobytes, and a backbone that trains in milliseconds."""

from pathlib import Path

import numpy as np

from ifuvit.data.encoded import EncodedDatasetWriter
from ifuvit.model.settings import IFUViTConfig
from ifuvit.training.config import DataConfig, TrainConfig
from ifuvit.utils.config import set_fields

WIDTH, TOKENS, CHANNELS, CELLS = 8, 4, 4, 8

MODEL = IFUViTConfig(
    latent_size=CELLS,
    latent_channels=CHANNELS,
    embed_dim=16,
    depth=2,
    num_heads=2,
    text_width=WIDTH,
    text_tokens=TOKENS,
    n_text=1,
    n_image=1,
)

MODEL_FLAGS = [
    f"--latent-size={CELLS}",
    f"--latent-channels={CHANNELS}",
    "--embed-dim=16",
    "--depth=2",
    "--num-heads=2",
    f"--text-width={WIDTH}",
    f"--text-tokens={TOKENS}",
    "--n-image=1",
]
"""The same model by flags, after the preset `openmoji-cross-intermediate`."""


def write_features(
    directory: Path,
    *,
    images: int = 20,
    captions_each: int = 2,
    text: str = "embeddings",
    size: int = CELLS * 4,
    width: int = WIDTH,
    autoencoder: str = "a" * 64,
    text_encoder: str = "b" * 64,
    reference: str = "no-text-encoder",
    autoencoder_reference: str = "no-autoencoder",
    ids: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    states: np.ndarray | None = None,
    null: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    log_variance: float = -30.0,
    latent_scale: float = 1.0,
    seed: int = 0,
) -> Path:
    """Random features. Caption row `captions_each * i + k` belongs to image i alone, and the first channel of its
    moments' mean tells which image it is (see `image_of`)."""
    rng = np.random.default_rng(seed)
    cells = size // 4
    moments = rng.standard_normal((images, 2 * CHANNELS, cells, cells)).astype(np.float16)
    moments[:, CHANNELS:] = log_variance  # -30: the posterior is its mean
    moments[:, 0, 0, 0] = np.arange(images)
    rows = images * captions_each
    ids = rng.integers(1, 99, (rows, TOKENS), dtype=np.int32) if ids is None else ids
    masks = rng.random((rows, TOKENS)) < 0.7 if masks is None else masks
    states = rng.standard_normal((rows, TOKENS, width)).astype(np.float16) if states is None else states
    if null is None:
        null = (np.zeros((TOKENS, width), np.float16), np.zeros(TOKENS, bool), np.zeros(TOKENS, np.int32))
    writer = EncodedDatasetWriter(directory)
    writer.begin({"seed": seed})
    half = images // 2
    shards = [
        writer.write_shard("moments", 0, {"moments": moments[:half]}, rows=half),
        writer.write_shard("moments", 1, {"moments": moments[half:]}, rows=images - half),
    ]
    arrays = {"ids": ids, "masks": masks} | ({"embeddings": states} if text == "embeddings" else {})
    writer.finish(
        shards={"moments": shards, "text": [writer.write_shard("text", 0, arrays, rows=rows)]},
        arrays={
            "null_embeddings": null[0],
            "null_mask": null[1],
            "null_ids": null[2],
            "caption_starts": np.arange(0, rows + 1, captions_each),
            "caption_rows": np.arange(rows),
        },
        captions=[f"caption {row}" for row in range(rows)],
        image_ids=[str(i) for i in range(images)],
        skipped=[],
        config={},
        started="then",
        facts={
            "size": size,
            "text": text,
            "latent_scale": latent_scale,
            "latent_mean": [0.0] * CHANNELS,
            "latent_std": [1 / latent_scale] * CHANNELS,
            "autoencoder": {
                "reference": autoencoder_reference,
                "fingerprint": autoencoder,
                "channels": CHANNELS,
                "factor": 4,
            },
            "text_encoder": {
                "reference": reference,
                "fingerprint": text_encoder,
                "width": width,
                "max_tokens": masks.shape[1],
            },
        },
    )
    return directory


def image_of(latents: np.ndarray) -> np.ndarray:
    """Which images scaled latents (B, C, H, W) show."""
    return np.rint(latents[:, 0, 0, 0]).astype(int)


def tiny(data: Path, out: Path, **settings) -> TrainConfig:
    """A training of 20 steps of 4 images; `settings` are fields of any section."""
    values = {
        "model": MODEL,
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 4,
        "ema": 0.9,
        "precision": "fp32",
        "log_every": 7,
        "validate_every": 0,
        "save_every": 6,
        "sample_every": 0,
        "workers": 0,
        **settings,
    }
    return set_fields(TrainConfig(data=DataConfig(data=data), out=out), **values)

"""The sizes at which an experiment can be done."""

from collections.abc import Mapping
from types import MappingProxyType

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.experiments.definition import Quantity, Scale

_EMBEDDED: Mapping[Quantity, str] = {
    "distance": "KID-EffNetLite0",
    "alignment": "TwoTower score",
    "count error": "average error of counts",
    "counts": "right kind and count",
    "relations": "relation",
}

SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        scale.name: scale
        for scale in (
            Scale(
                name="smoke",
                about="all commands in minutes on a CPU; its numbers mean nothing",
                preset="openmoji-cross-intermediate",
                model={"embed_dim": 48, "num_heads": 2},
                recipe={
                    "steps": 30,
                    "batch_size": 8,
                    "warmup_steps": 5,
                    "validate_every": 15,
                    "validation_images": 16,
                    "save_every": 15,
                    "sample_every": 0,
                    "evaluate_every": 15,
                    "evaluate_images": 16,
                    "evaluate_sampling": SamplingSettings(steps=2, guidance_scale=2.0),
                },
                scenes=(128, 96),
                images=48,
                sampling=SamplingSettings(steps=4, guidance_scale=2.0),
                count_prompts=("paper=1", "relations=1"),
                headline=_EMBEDDED,
                training_gflops_per_second=40,
                preparation_seconds=20,
                evaluation_seconds=20,
                machine="one CPU core",
            ),
            Scale(
                name="small",
                about="OpenMoji Scenes, 64x64, a quarter of the FLOPs: large differences only",
                preset="openmoji-cross-intermediate",
                model={"embed_dim": 96, "num_heads": 3},
                recipe={
                    "steps": 3_000,
                    "warmup_steps": 100,
                    "validate_every": 500,
                    "evaluate_every": 0,
                },
                scenes=(20_000, 1_000),
                images=200,
                sampling=SamplingSettings(steps=15, guidance_scale=2.0),
                count_prompts=(
                    "paper=10",
                    "grounds=1",
                    "relations=1",
                    "held-out-counts=5",
                    "held-out-relations=1",
                    "paraphrases=1",
                    "relation-paraphrases=1",
                ),
                headline=_EMBEDDED,
                training_gflops_per_second=60,
                preparation_seconds=300,
                evaluation_seconds=200,
                machine="one CPU core (Zen 5)",
            ),
            Scale(
                name="openmoji",
                about="OpenMoji Scenes, 64x64; hours on two CPU cores",
                preset="openmoji-cross-intermediate",
                recipe={"evaluate_every": 1_000},
                scenes=(40_000, 2_000),
                headline=_EMBEDDED,
                training_gflops_per_second=268,
                preparation_seconds=500,
                evaluation_seconds=300,
                machine="two CPU cores (Zen 5)",
            ),
            Scale(
                name="paper",
                about="MS-COCO 2014 at 256x256, the paper's recipe: 1,000,000 steps of 256 a run",
                preset="cross-intermediate",
                recipe={
                    "evaluate_every": 50_000,
                    "evaluate_images": 2_000,
                },
                scenes=None,
                autoencoder="stabilityai/sd-vae-ft-ema",
                text_encoder="clip-vit-large-patch14",
                text="tokens",
                protocol="paper",
                headline={"distance": "FID", "alignment": "CLIP score", "count error": "average error of counts"},
                training_gflops_per_second=45_000,
                preparation_seconds=4 * 3600,
                evaluation_seconds=2 * 3600,
                machine="the paper's GPUs by its iterations per second (it does not name them)",
            ),
        )
    }
)

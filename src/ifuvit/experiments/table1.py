"""Table 1: early against intermediate fusion, by concatenation and by cross-attention.

Reference: Hu, Jia, Rostami, "An Intermediate Fusion ViT Enables Efficient Text-Image Alignment in Diffusion Models"
(arXiv 2403.16530), Table 1 and Figure 3.

Command:
    ifuvit experiment table1 --scale openmoji --seeds 3 --out table1
    ifuvit experiment table1 --scale paper --data coco --out table1-coco --launcher "accelerate launch"

Cost:
    openmoji: four runs a seed, 46 minutes for cross-intermediate on two CPU cores (measured), 50 to 60 predicted by FLOPs
    for the others, and an evaluation of about ten minutes each: 4 to 5 hours a seed.
    paper: 101 to 153 hours a run by the paper's iterations per second, on hardware it does not name.

Expected: the paper's numbers below. At the openmoji scale the distances and scores are others (feature network and
alignment model are other ones); what is to be compared is the order of the settings.
"""

from ifuvit.experiments.definition import Claim, Experiment, Quantity, Setting

CONCAT_EARLY = Setting(name="concat-early", conditioning="concat", n_text=0, n_image=0)
CONCAT_INTERMEDIATE = Setting(name="concat-intermediate", conditioning="concat", n_text=1, n_image=4)
CROSS_EARLY = Setting(name="cross-early", conditioning="cross", n_text=0, n_image=0)
CROSS_INTERMEDIATE = Setting(name="cross-intermediate", conditioning="cross", n_text=1, n_image=4)


def _row(fid: float, clip: float, parameters: float, speed: float, gflops: float) -> dict[str, float]:
    return {
        "FID-30K": fid,
        "CLIP score": clip,
        "parameters": parameters,
        "training_steps_per_second": speed,
        "gflops": gflops,
    }


_ADVANTAGES: tuple[tuple[Quantity, str], ...] = (
    ("distance", "lowers the distance"),
    ("alignment", "raises the alignment score"),
    ("count error", "lowers the error of object counts"),
)

EXPERIMENT = Experiment(
    name="table1",
    title="Early against intermediate fusion",
    settings=(CONCAT_EARLY, CONCAT_INTERMEDIATE, CROSS_EARLY, CROSS_INTERMEDIATE),
    source="arXiv 2403.16530, Table 1: MS-COCO, FID-30K, CLIP score probably 2.5 x cosine, GFLOPs without attention products",
    expected={
        "concat-early": _row(5.98, 0.584, 45e6, 1.81, 29.56),
        "concat-intermediate": _row(5.77, 0.588, 48e6, 2.31, 25.84),
        "cross-early": _row(6.48, 0.575, 45e6, 2.54, 23.82),
        "cross-intermediate": _row(5.68, 0.588, 48e6, 2.74, 23.66),
    },
    claims=tuple(
        Claim(
            text=f"intermediate fusion {does} ({name})",
            better=f"{conditioning}-intermediate",
            worse=f"{conditioning}-early",
            by=quantity,
        )
        for conditioning, name in (("concat", "concatenation"), ("cross", "cross-attention"))
        for quantity, does in _ADVANTAGES
    ),
)

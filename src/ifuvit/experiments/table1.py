"""Table 1: early against intermediate fusion, by concatenation and by cross-attention.

Reference: Hu, Jia, Rostami, "An Intermediate Fusion ViT Enables Efficient Text-Image Alignment in Diffusion Models"
(arXiv 2403.16530), Table 1 and Figure 3.

Command:
    ifuvit experiment table1 --scale openmoji --seeds 3 --out table1
    ifuvit experiment table1 --scale openmoji --recipe paper --out table1-paper-recipe
    accelerate launch -m ifuvit experiment table1 --scale paper --data coco --out table1-coco

Cost:
    openmoji: four runs a seed, 46 minutes for cross-intermediate on two CPU cores (measured), 50 to 60 predicted by FLOPs
    for the others, and an evaluation of about ten minutes each: 4 to 5 hours a seed.
    paper: 101 to 153 hours a run by the paper's iterations per second, on hardware it does not name.

Expected: the paper's numbers (`ifuvit.paper`). At the openmoji scale feature network and alignment model are
others, and so are distances and scores; only the order of the settings can be compared.
"""

from ifuvit import paper
from ifuvit.experiments.definition import Claim, Experiment, Quantity, Setting

CONCAT_EARLY, CONCAT_INTERMEDIATE, CROSS_EARLY, CROSS_INTERMEDIATE = (
    Setting(
        name=row.name,
        conditioning=row.setting.conditioning,
        n_text=row.setting.n_text,
        n_image=row.setting.n_image,
    )
    for row in paper.TABLE_1
)

_ADVANTAGES: tuple[tuple[Quantity, str], ...] = (
    ("distance", "lowers the distance"),
    ("alignment", "raises the alignment score"),
    ("count error", "lowers the error of object counts"),
    ("counts", "raises the share of right counts"),
    ("relations", "raises the share of right relations"),
)

EXPERIMENT = Experiment(
    name="table1",
    title="Early against intermediate fusion",
    settings=(CONCAT_EARLY, CONCAT_INTERMEDIATE, CROSS_EARLY, CROSS_INTERMEDIATE),
    source="arXiv 2403.16530, Table 1: MS-COCO, FID-30K, CLIP score probably 2.5 x cosine, GFLOPs without attention products",
    expected={
        row.name: {
            "FID-30K": row.fid_30k,
            "CLIP score": row.clip_score,
            "parameters": row.parameters,
            "training_steps_per_second": row.training_steps_per_second,
            "gflops": row.gflops,
        }
        for row in paper.TABLE_1
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

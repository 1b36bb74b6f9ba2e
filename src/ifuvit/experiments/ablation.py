"""Ablation: what the text block and what fusion in the middle contribute, each alone.

Reference: arXiv 2403.16530, section 4.5 and Figure 7. Settings are written [N_text, N_image]: the baseline [0, 0], the text
block alone [1, 0], fusion in the middle alone [0, 4], both [1, 4]; for concatenation and for cross-attention. At the
openmoji scale (depth 6) N_image = 2 stands for 4.

Command:
    ifuvit experiment ablation --scale openmoji --seeds 3 --out ablation [--runs WHERE-TABLE1-PUT-ITS-RUNS]

Cost: eight runs a seed, four of which are those of `table1` and are not trained again where both are given the same
--runs. openmoji: 8 to 9 hours a seed on two CPU cores (predicted by FLOPs from a measured run). paper: 100 to 160 hours a
run.

Expected: the figure's bars are not given as numbers. The text says: fusion in the middle alone brings most of the better
FID and costs CLIP score; the text block alone brings most of the better CLIP score and costs FLOPs; both together improve
all.
"""

from ifuvit.experiments import table1
from ifuvit.experiments.definition import Claim, Experiment, Setting

CONCAT_TEXT_BLOCK = Setting(name="concat-text-block", conditioning="concat", n_text=1, n_image=0)
CONCAT_MIDDLE = Setting(name="concat-middle", conditioning="concat", n_text=0, n_image=4)
CROSS_TEXT_BLOCK = Setting(name="cross-text-block", conditioning="cross", n_text=1, n_image=0)
CROSS_MIDDLE = Setting(name="cross-middle", conditioning="cross", n_text=0, n_image=4)

EXPERIMENT = Experiment(
    name="ablation",
    title="Text block and fusion in the middle, each alone",
    settings=(
        table1.CONCAT_EARLY,
        CONCAT_TEXT_BLOCK,
        CONCAT_MIDDLE,
        table1.CONCAT_INTERMEDIATE,
        table1.CROSS_EARLY,
        CROSS_TEXT_BLOCK,
        CROSS_MIDDLE,
        table1.CROSS_INTERMEDIATE,
    ),
    source="arXiv 2403.16530, Table 1 for [0, 0] and [1, 4]; Figure 7, whose bars have no numbers, for the rest",
    expected=table1.EXPERIMENT.expected,
    claims=tuple(
        claim
        for conditioning, name in (("concat", "concatenation"), ("cross", "cross-attention"))
        for claim in (
            Claim(
                text=f"fusion in the middle alone lowers the distance ({name})",
                better=f"{conditioning}-middle",
                worse=f"{conditioning}-early",
                by="distance",
            ),
            Claim(
                text=f"fusion in the middle alone lowers the alignment score ({name})",
                better=f"{conditioning}-early",
                worse=f"{conditioning}-middle",
                by="alignment",
            ),
            Claim(
                text=f"the text block alone raises the alignment score ({name})",
                better=f"{conditioning}-text-block",
                worse=f"{conditioning}-early",
                by="alignment",
            ),
        )
    ),
)

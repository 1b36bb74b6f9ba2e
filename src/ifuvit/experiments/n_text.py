"""Trainable text blocks: none, one, two, four, before fusion in the middle by cross-attention.

Reference: arXiv 2403.16530 uses N_text = 1 (section 3 and Table 1) and compares it with 0 (section 4.5, Figure 7); it gives no
numbers for more.

Command:
    ifuvit experiment n_text --scale openmoji --seeds 3 --out n_text [--runs WHERE-TABLE1-PUT-ITS-RUNS]

Cost: four runs a seed, of which `table1` has one and `ablation` another. A text block costs 0.03 of the GFLOPs of a forward pass
at the openmoji scale.

Expected: one block raises the alignment score over none. Whether two or four raise it further is open.
"""

from ifuvit.experiments import ablation, table1
from ifuvit.experiments.definition import Claim, Experiment, Setting

CROSS_TWO_TEXT_BLOCKS = Setting(name="cross-two-text-blocks", conditioning="cross", n_text=2, n_image=4)
CROSS_FOUR_TEXT_BLOCKS = Setting(name="cross-four-text-blocks", conditioning="cross", n_text=4, n_image=4)

EXPERIMENT = Experiment(
    name="n_text",
    title="Trainable text blocks",
    settings=(ablation.CROSS_MIDDLE, table1.CROSS_INTERMEDIATE, CROSS_TWO_TEXT_BLOCKS, CROSS_FOUR_TEXT_BLOCKS),
    source="arXiv 2403.16530, Table 1 for [1, 4]; the rest has no numbers there",
    expected={name: row for name, row in table1.EXPERIMENT.expected.items() if name == table1.CROSS_INTERMEDIATE.name},
    claims=(
        Claim(
            text="one text block raises the alignment score over none",
            better=table1.CROSS_INTERMEDIATE.name,
            worse=ablation.CROSS_MIDDLE.name,
            by="alignment",
        ),
        Claim(
            text="one text block raises the share of right counts over none",
            better=table1.CROSS_INTERMEDIATE.name,
            worse=ablation.CROSS_MIDDLE.name,
            by="counts",
        ),
    ),
)

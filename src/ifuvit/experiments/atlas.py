"""Atlas: where and how text enters, every published way on one backbone, scored skill by skill.

Reference: arXiv 2403.16530 compares two conditionings at two places and names other conditionings and places as open. The
placements of later models stand beside them: refiners before joint blocks (Lumina-Image 2.0, Z-Image), text that is never
updated (PRX), a condition-free end (DDT), cross-attention of its own (PixArt), streams with weights of their own (Stable Diffusion
3), double and then single blocks (FLUX), pooled text as modulation (DiT). Only the placement is theirs: every setting has
U-ViT's blocks and the training recipe of the scale. What these models add to their blocks is in `ifuvit.model.presets`.

Command:
    ifuvit experiment atlas --scale openmoji --seeds 3 --out atlas [--runs DIR] [--equal parameters]
    sbatch --array 1-16 examples/slurm_experiment.sh atlas --scale openmoji --seeds 3 --out atlas

Cost: sixteen runs a seed. At equal FLOPs (the default) each takes as many as `cross-intermediate`: at the openmoji scale about an
hour on two CPU cores, and twenty minutes for an evaluation of all skills. The scale small takes a tenth of that.

Expected: nobody has mapped it. The paper's own claims are those of `table1` and `position`: fusion in the middle is ahead, for
fewer FLOPs of a guided step.
"""

from ifuvit.experiments import position, table1
from ifuvit.experiments.definition import Claim, Experiment, Setting

REFINERS = Setting(name="concat-refiners", conditioning="concat", n_text=2, n_image=(2, 0))
FREE_END = Setting(name="concat-free-end", conditioning="concat", n_text=0, n_image=(0, 3))
SEPARATE_EARLY = Setting(name="separate-early", conditioning="cross-separate", n_text=0, n_image=0)
SEPARATE_INTERMEDIATE = Setting(name="separate-intermediate", conditioning="cross-separate", n_text=1, n_image=4)
SEPARATE_JOINT = Setting(
    name="separate-joint-early",
    conditioning="cross-separate",
    n_text=0,
    n_image=0,
    options={"cross_attention": "joint"},
)
MMDIT_EARLY = Setting(name="mmdit-early", conditioning="mmdit", n_text=0, n_image=0)
MMDIT_INTERMEDIATE = Setting(name="mmdit-intermediate", conditioning="mmdit", n_text=1, n_image=4)
MMDIT_DOUBLE_FIRST = Setting(name="mmdit-double-first", conditioning="mmdit", n_text=0, n_image=0, double_blocks=4)
ADALN_EARLY = Setting(name="adaln-early", conditioning="adaln", n_text=0, n_image=0)
ADALN_INTERMEDIATE = Setting(name="adaln-intermediate", conditioning="adaln", n_text=1, n_image=4)

EXPERIMENT = Experiment(
    name="atlas",
    title="Where and how text enters",
    settings=(
        table1.CROSS_INTERMEDIATE,
        table1.CONCAT_EARLY,
        table1.CONCAT_INTERMEDIATE,
        table1.CROSS_EARLY,
        position.FIRST,
        position.LAST,
        REFINERS,
        FREE_END,
        SEPARATE_EARLY,
        SEPARATE_INTERMEDIATE,
        SEPARATE_JOINT,
        MMDIT_EARLY,
        MMDIT_INTERMEDIATE,
        MMDIT_DOUBLE_FIRST,
        ADALN_EARLY,
        ADALN_INTERMEDIATE,
    ),
    equal="flops",
    protocol="skills",
    source="arXiv 2403.16530 has numbers for four of these settings (Table 1), at equal width",
    expected={},
    claims=tuple(
        Claim(
            text=f"fusion in the middle has more right counts than in every block ({name})",
            better=f"{conditioning}-intermediate",
            worse=f"{conditioning}-early",
            by="counts",
        )
        for conditioning, name in (
            ("concat", "concatenation"),
            ("cross", "cross-attention"),
            ("separate", "separate cross-attention"),
            ("mmdit", "MM-DiT"),
            ("adaln", "adaptive LayerNorm"),
        )
    ),
)

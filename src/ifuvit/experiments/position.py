"""Where text is fused: in the first blocks, in the middle, or in the last, at equal FLOPs.

Reference: arXiv 2403.16530, sections 3 and 4.6: text guides most in the middle of the U, next to the bottleneck. The paper
compares fusion in the middle with fusion in all blocks, which costs more; here half of the outer blocks are image-only in all
three settings, so that as many blocks see text and a forward pass has the same FLOPs.

Command:
    ifuvit experiment position --scale openmoji --seeds 3 --out position [--runs DIR]

Cost: three runs a seed. A guided sampling step costs less the later text enters, for what comes before is shared.

Expected: the middle has the lowest distance and the highest alignment score. At the openmoji scale (depth 6) the four fused
blocks of seven cannot stand exactly in the middle: they are the second to the fifth.
"""

from ifuvit.experiments.definition import Claim, Experiment, Quantity, Setting

FIRST = Setting(name="cross-fused-first", conditioning="cross", n_text=1, n_image=(0, 6))
MIDDLE = Setting(name="cross-fused-middle", conditioning="cross", n_text=1, n_image=(3, 3))
LAST = Setting(name="cross-fused-last", conditioning="cross", n_text=1, n_image=(6, 0))

_ADVANTAGES: tuple[tuple[Quantity, str], ...] = (
    ("distance", "has a lower distance"),
    ("alignment", "has a higher alignment score"),
    ("counts", "has more right counts"),
)

EXPERIMENT = Experiment(
    name="position",
    title="Fusion in the first blocks, in the middle, in the last",
    settings=(FIRST, MIDDLE, LAST),
    source="arXiv 2403.16530, sections 3 and 4.6, which have no numbers for it",
    expected={},
    claims=tuple(
        Claim(text=f"fusion in the middle {does} than {name}", better=MIDDLE.name, worse=other.name, by=quantity)
        for other, name in ((FIRST, "in the first blocks"), (LAST, "in the last"))
        for quantity, does in _ADVANTAGES
    ),
)

"""Settings of equal cost: the width at which a backbone has the FLOPs or the parameters of another."""

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from ifuvit.experiments.definition import Equal

if TYPE_CHECKING:
    from ifuvit.model.settings import IFUViTConfig


@cache
def matched(model: "IFUViTConfig", to: "IFUViTConfig", equal: Equal) -> "IFUViTConfig":
    """`model` at the width whose cost is nearest to that of `to`, by ratio. Heads keep their number; so widths are multiples of it.

    Args:
        equal: "flops" of one forward pass with its text, attention products included; "parameters"; or "width", which
            changes nothing.
    """
    if equal == "width" or model == to:
        return model
    from ifuvit.model.flops import forward_flops, parameters

    step = math.lcm(2, model.num_heads * (4 if model.positions == "rotary" else 1))

    def ratio(place: int) -> float:
        """The cost at `place` steps of width over the wanted one."""
        at = replace(model, embed_dim=place * step)
        return (
            forward_flops(at).total / forward_flops(to).total if equal == "flops" else parameters(at) / parameters(to)
        )

    def distance(place: int) -> float:
        return abs(math.log(ratio(place)))

    # Costs grow with the width, nearly as its square, so that the distance has one valley; walk down into it from near.
    start = max(model.embed_dim // step, 1)
    place = max(round(start / math.sqrt(ratio(start))), 1)
    way = 1 if distance(place + 1) < distance(place) else -1
    while place + way >= 1 and distance(place + way) < distance(place):
        place += way
    return replace(model, embed_dim=place * step)

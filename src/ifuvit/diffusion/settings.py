"""Guidance in a part of the noise range only (Kynkäänniemi et al. 2024, arXiv 2404.07724).

Guidance is needed in the middle, where a image's contents are decided. Beside its interval the conditional branch runs alone,
which is half of a step's work.
"""

from ifuvit.utils.errors import InputError

Interval = tuple[float, float]
"""(low, high): guided are the steps with low <= n / 1000 <= high."""
EVERYWHERE: Interval = (0.0, 1.0)


def check_interval(interval: Interval, *, option: str = "guidance_interval") -> None:
    """Raise an InputError for an interval that is none; `option` is where it was given."""
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise InputError(f"{option} {low:g} {high:g}: give two shares of the noise range, 0 <= low <= high <= 1")


def scale_at(level: float, guidance_scale: float, interval: Interval) -> float:
    """The guidance scale of a step at n = 1000 `level`; 1 is no guidance."""
    low, high = interval
    return guidance_scale if low <= level <= high else 1.0

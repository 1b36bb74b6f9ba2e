"""How often the analysis of human studies finds what simulated raters were planted with.

    python tests/study_coverage.py [DIRECTORY]     prints the table of docs/human-evaluation.md; DIRECTORY/manifest.json keeps it

200 studies of each kind of raters: ten of them, the paper's 100 captions and four models, five raters a caption; the paper's
20 prompts and ten pictures each of two models, three raters a picture.
"""

import sys
import time
from typing import Any

import numpy as np

from ifuvit.artifacts import now, write_manifest
from ifuvit.config import to_dict
from ifuvit.studies.simulation import RaterModel, count_coverage, preference_coverage

STUDIES, RATERS, ITEMS, RATERS_PER_ITEM, SAMPLES = 200, 10, 100, 5, 400
STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5}
RIGHT = {"x": 0.8, "y": 0.6}
RATER_MODELS = {
    "as expected of people": RaterModel(),
    "who differ in noise alone": RaterModel(picture_spread=0, taste_spread=0),
    "of strong tastes": RaterModel(taste_spread=0.8),
}


def main(directory: str | None) -> None:
    """Simulate, print, and keep the result."""
    started = now()
    results: dict[str, Any] = {"preference": {}, "count": {}}
    print(f"{'raters':<34} {'order found':>11}   covered (least and greatest share of studies)")
    for name, how in RATER_MODELS.items():
        began = time.monotonic()
        found = preference_coverage(
            STRENGTHS,
            how=how,
            studies=STUDIES,
            items=ITEMS,
            raters=RATERS,
            raters_per_item=RATERS_PER_ITEM,
            samples=SAMPLES,
        )
        results["preference"][name] = {"raters": to_dict(how), **found, "seconds": round(time.monotonic() - began)}
        print(line(f"preference, {name}", found), flush=True)
    how = RaterModel()
    found = count_coverage(RIGHT, how=how, studies=STUDIES, raters=RATERS, samples=SAMPLES)
    results["count"]["as expected of people"] = {"raters": to_dict(how), **found}
    print(line("count", found))
    if directory is not None:
        config = {
            **{"studies": STUDIES, "raters": RATERS, "items": ITEMS, "raters_per_item": RATERS_PER_ITEM},
            **{"samples": SAMPLES, "strengths": STRENGTHS, "right": RIGHT},
        }
        write_manifest(directory, "tests/study_coverage.py", config, started=started, results=results)


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    shares = []
    for what, covered in found["covered"].items():
        values = 100 * np.array(list(covered.values()))
        shares.append(f"{what.replace('_', ' ')} {values.mean():.1f} % ({values.min():.1f}-{values.max():.1f})")
    return f"{name:<34} {100 * found['order_found']:>9.1f} %   {', '.join(shares)}"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

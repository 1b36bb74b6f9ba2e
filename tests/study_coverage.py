"""How often the analysis of human studies finds what simulated raters were planted with.

    python tests/study_coverage.py [DIRECTORY]     prints the table of docs/human-evaluation.md; DIRECTORY/manifest.json keeps it

200 studies of each kind. Preferences: the paper's 100 captions and four models, five raters a caption. Counts: the paper's 20
prompts, ten pictures each of two models, three raters a picture.
"""

import sys
from typing import Any

import numpy as np

from ifuvit.artifacts import now, write_manifest
from ifuvit.config import to_dict
from ifuvit.studies.preference import rankings
from ifuvit.studies.simulation import (
    RaterModel,
    count_coverage,
    preference_coverage,
    preference_truth,
    simulate_preference,
)

STUDIES, ITEMS, RATERS_PER_ITEM, SAMPLES = 200, 100, 5, 400
STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5}
RIGHT = {"x": 0.8, "y": 0.6}
PREFERENCE = {
    "10 raters": (10, RaterModel()),
    "10 raters, noise alone": (10, RaterModel(picture_spread=0, taste_spread=0)),
    "10 raters of strong tastes": (10, RaterModel(taste_spread=0.8)),
    "5 raters": (5, RaterModel()),
    "20 raters": (20, RaterModel()),
    "40 raters": (40, RaterModel()),
}
COUNT = {"10 raters": (10, RaterModel()), "5 raters": (5, RaterModel()), "20 raters": (20, RaterModel())}


def main(directory: str | None) -> None:
    """Simulate, print, and keep the result."""
    started = now()
    results: dict[str, Any] = {"preference": {}, "count": {}}
    for name, (raters, how) in PREFERENCE.items():
        found = preference_coverage(
            STRENGTHS,
            how=how,
            studies=STUDIES,
            items=ITEMS,
            raters=raters,
            raters_per_item=RATERS_PER_ITEM,
            samples=SAMPLES,
        )
        keep(results, "preference", name, raters, how, found)
    for name, (raters, how) in COUNT.items():
        found = count_coverage(RIGHT, how=how, studies=STUDIES, raters=raters, samples=SAMPLES)
        keep(results, "count", name, raters, how, found)
    results["simpler"] = {}
    for name in ("10 raters", "10 raters, noise alone"):
        results["simpler"][name] = simpler_bootstraps(*PREFERENCE[name])
        told = ", ".join(f"{scheme} {100 * share:.1f} %" for scheme, share in results["simpler"][name].items())
        print(f"{name}: points covered by percentiles of one bootstrap over {told}")
    if directory is not None:
        config = {
            **{"studies": STUDIES, "items": ITEMS, "raters_per_item": RATERS_PER_ITEM, "samples": SAMPLES},
            **{"strengths": STRENGTHS, "right": RIGHT},
        }
        write_manifest(directory, "tests/study_coverage.py", config, started=started, results=results)


def keep(results: dict[str, Any], kind: str, name: str, raters: int, how: RaterModel, found: dict[str, Any]) -> None:
    """Keep what came out, and print a row of the table for each set of numbers."""
    results[kind][name] = {"raters": raters, "rater_model": to_dict(how), **found}
    print(f"{kind}, {name}: order found in {100 * found['order_found']:.1f} %")
    for what, covered in found["covered"].items():
        shares, widths = 100 * np.array(list(covered.values())), list(found["width"][what].values())
        told = f"covered in {shares.mean():.1f} % ({shares.min():.1f} to {shares.max():.1f})"
        print(f"    {what.replace('_', ' '):<24} {told:<40} mean width {np.mean(widths):.3f}", flush=True)


def simpler_bootstraps(raters: int, how: RaterModel) -> dict[str, float]:
    """How often percentiles of one bootstrap have the true mean points in them: of answers, of items, of raters, or of items
    and raters at once."""
    truth = preference_truth(STRENGTHS, how=how)["points"]
    covered: dict[str, list[np.ndarray]] = {}
    for seed in range(STUDIES):
        study, answers = simulate_preference(
            STRENGTHS, items=ITEMS, raters=raters, raters_per_item=RATERS_PER_ITEM, how=how, seed=seed
        )
        table = rankings(study, [one for one in answers if one.purpose == "rating"])
        items, people = (np.unique(ids, return_inverse=True)[1] for ids in (table.items, table.raters))
        rng = np.random.default_rng(seed)

        def weights(clusters: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            number = clusters.max() + 1
            return rng.multinomial(number, np.full(number, 1 / number), size=SAMPLES)[:, clusters]

        schemes = {
            "answers": weights(np.arange(len(items))),
            "items": weights(items),
            "raters": weights(people),
            "items and raters at once": weights(items) * weights(people),
        }
        for name, drawn in schemes.items():
            low, high = np.quantile(drawn @ table.points / drawn.sum(1, keepdims=True), (0.025, 0.975), axis=0)
            covered.setdefault(name, []).append((low <= truth) & (truth <= high))
    return {name: float(np.mean(found)) for name, found in covered.items()}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

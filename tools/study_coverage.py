"""How often the analysis of human studies finds what simulated raters were planted with.

    python tools/study_coverage.py DIRECTORY [SCENARIO …]

prints a summary and keeps every number of a scenario in DIRECTORY/SCENARIO.json. Without scenarios it is all of them whose
files are not there yet.

200 studies of each kind. Preferences: the paper's 100 captions and four models, five raters a caption. Counts: the paper's 20
prompts, ten images each of two models, three raters an image, and an automatic counter that is wrong in one of ten.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from study_simulation import (
    RaterModel,
    Simulated,
    coverage,
    expected_order,
    simulate_count,
    simulate_preference,
)

from ifuvit.studies.ranks import Rankings, rankings
from ifuvit.utils.files import manifest, now, write_json

STUDIES, ITEMS, SAMPLES = 200, 100, 300
RIGHT = {"x": 0.8, "y": 0.6}


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Raters who prefer model a to b, b to c, c to d."""

    raters: int = 10
    step: float = 0.75
    """By how much the log-strengths of two neighbors differ."""
    how: RaterModel = RaterModel()

    @property
    def strengths(self) -> dict[str, float]:
        """Planted log-strengths."""
        return {model: -self.step * place for place, model in enumerate("abcd")}

    def simulate(self, seed: int) -> Simulated:
        """A study."""
        return self._simulate(seed, items=ITEMS, raters=self.raters)

    def truth(self) -> Simulated:
        """A study of so many captions and raters that it tells what endlessly many would."""
        return self._simulate(STUDIES, items=8000, raters=2000)

    def _simulate(self, seed: int, *, items: int, raters: int) -> Simulated:
        study, answers = simulate_preference(
            self.strengths, items=items, raters=raters, raters_per_item=5, how=self.how, seed=seed
        )
        return study, answers, None


PREFERENCES = {
    "preference-10-raters": Preferences(),
    "preference-10-raters-near": Preferences(step=0.5),
    "preference-10-raters-strong-tastes": Preferences(step=1.5, how=RaterModel(taste_spread=0.8)),
    "preference-10-raters-strong-tastes-near": Preferences(step=0.5, how=RaterModel(taste_spread=0.8)),
    "preference-10-raters-noise-alone": Preferences(how=RaterModel(image_spread=0, taste_spread=0)),
    "preference-5-raters": Preferences(raters=5),
    "preference-20-raters": Preferences(raters=20),
}
COUNTS = {"count-10-raters": 10, "count-20-raters": 20}
SIMPLER = {
    "simpler-bootstraps": PREFERENCES["preference-10-raters"],
    "simpler-bootstraps-noise-alone": PREFERENCES["preference-10-raters-noise-alone"],
}


def simulated_counts(seed: int, *, raters: int, images_per_prompt: int = 10) -> Simulated:
    """A study of counts, and a counter that finds one more object in every tenth image."""
    study, answers, shown = simulate_count(
        RIGHT, raters=raters, raters_per_item=3, how=RaterModel(), seed=seed, images_per_prompt=images_per_prompt
    )
    wrong = np.random.default_rng((seed, 1)).random(len(shown)) < 0.1
    return study, answers, {item: count + int(one) for (item, count), one in zip(shown.items(), wrong)}


def main(directory: Path, scenarios: Sequence[str]) -> None:
    """Simulate, print, and keep the results."""
    for name in scenarios or [*PREFERENCES, *COUNTS, *SIMPLER]:
        file = directory / f"{name}.json"
        if file.exists() and not scenarios:
            continue
        started = now()
        if name in SIMPLER:
            result: dict[str, Any] = {"covered": simpler_bootstraps(SIMPLER[name])}
            print(f"{name}: mean points in percentiles of one bootstrap: {result['covered']}", flush=True)
        else:
            result = of_preferences(PREFERENCES[name]) if name in PREFERENCES else of_counts(COUNTS[name])
            show(name, result)
        write_json(file, manifest("tools/study_coverage.py", {"scenario": name}, started=started, **result))


def of_preferences(one: Preferences) -> dict[str, Any]:
    """What `coverage` finds, and the chance that a study of this design had."""
    found = coverage(one.simulate, truth=one.truth(), planted="abcd", studies=STUDIES, samples=SAMPLES)
    expected = expected_order(one.strengths, items=ITEMS, raters=one.raters, raters_per_item=5, how=one.how)
    return {**asdict(one), "items": ITEMS, "order_expected": expected, **found}


def of_counts(raters: int) -> dict[str, Any]:
    """What `coverage` finds."""
    truth = simulated_counts(STUDIES, raters=800, images_per_prompt=300)

    def simulate(seed: int) -> Simulated:
        return simulated_counts(seed, raters=raters)

    found = coverage(simulate, truth=truth, planted="xy", studies=STUDIES, samples=SAMPLES)
    return {"raters": raters, "how": asdict(RaterModel()), "right": RIGHT, **found}


def show(title: str, result: dict[str, Any]) -> None:
    """A line for each group of numbers."""
    expected = f", {100 * result['order_expected']:.1f} % expected" if "order_expected" in result else ""
    print(f"{title}: order found in {100 * result['order_found']:.1f} %{expected}")
    groups: dict[str, list[str]] = {}
    for number in result["covered"]:
        parts = number.split(" / ")
        groups.setdefault(f"{parts[2]}, {parts[-1]}" if parts[0] == "models" else parts[0], []).append(number)
    for group, numbers in groups.items():
        shares = 100 * np.array([result["covered"][number] for number in numbers])
        width = np.mean([result["width"][number] for number in numbers])
        told = f"{len(numbers):4} numbers covered in {shares.mean():.1f} % ({shares.min():.1f} to {shares.max():.1f})"
        print(f"    {group:<28} {told:<52} mean width {width:.3f}")
    shares = np.array(list(result["covered"].values()))
    inside = ((shares >= 0.9) & (shares <= 0.98)).sum()
    print(
        f"    {inside} of {len(shares)} numbers in 90 to 98 % of studies, {(shares < 0.9).sum()} in fewer", flush=True
    )


def simpler_bootstraps(one: Preferences) -> dict[str, float]:
    """How often percentiles of one bootstrap have the true mean points in them: of answers, of items, of raters, or of items
    and raters at once."""

    def rated(simulated: Simulated) -> Rankings:
        study, answers, _ = simulated
        return rankings(study, [answer for answer in answers if answer.purpose == "rating"])

    truth = rated(one.truth()).points.mean(0)
    covered: dict[str, list[np.ndarray]] = {}
    for seed in range(STUDIES):
        table = rated(one.simulate(seed))
        items, people = (np.unique(ids, return_inverse=True)[1] for ids in (table.items, table.raters))
        rng = np.random.default_rng(seed)

        def weights(clusters: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            number = clusters.max() + 1
            return rng.multinomial(number, np.full(number, 1 / number), size=400)[:, clusters]

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
    main(Path(sys.argv[1]), sys.argv[2:])

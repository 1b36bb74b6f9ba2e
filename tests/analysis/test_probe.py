"""Linear probes, and the captions of the text information."""

import numpy as np
import pytest
import torch

from ifuvit.analysis import probe
from ifuvit.analysis.common import open_models
from ifuvit.analysis.information import SKILLS, captions_for, measure_information
from ifuvit.analysis.scenes import draw_scenes, encode_scenes, image_noise
from ifuvit.data.scenes import BACKGROUNDS, KIND_INDEX, RELATIONS
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_prompt


def test_a_probe_reads_what_is_linear_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    features = rng.normal(size=(800, 20)) + 3 * np.eye(4, 20)[labels] * np.linspace(1, 100, 20)
    test = np.arange(800) % 4 == 0
    right = probe.probe_accuracy(features, labels, test)
    assert right.shape == (200,) and right.mean() > 0.95
    assert abs(probe.probe_accuracy(features, rng.permutation(labels), test).mean() - 0.25) < 0.1


def test_the_ridge_is_chosen_by_leaving_out_one() -> None:
    """Against fits without each scene in turn; with as many features as scenes the choice matters."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = rng.normal(size=(120, 90)) + 2 * np.eye(3, 90)[labels]
    test = np.arange(120) % 4 == 0
    x = (features - features[~test].mean(0)) / features[~test].std(0)
    train, of, targets = x[~test], labels[~test], np.eye(3)[labels[~test]]

    def solve(kept: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        inside = np.hstack([train[kept], np.ones((kept.sum(), 1))])  # the offset is not shrunk
        ridge = np.diag([strength * np.square(train).sum() / 90] * 90 + [0])
        solved = np.linalg.solve(inside.T @ inside + ridge, inside.T @ targets[kept])
        return solved[:-1], solved[-1]

    def left_out(strength: float) -> float:
        right = 0
        for one in range(len(of)):
            weights, offset = solve(np.arange(len(of)) != one, strength)
            right += (train[one] @ weights + offset).argmax() == of[one]
        return right / len(of)

    scores = {strength: left_out(strength) for strength in probe.STRENGTHS}
    assert max(scores.values()) > min(scores.values()) + 0.1
    best = max(sorted(scores, reverse=True), key=scores.__getitem__)
    weights, offset = solve(np.ones(len(of), bool), best)
    expected = (x[test] @ weights + offset).argmax(1) == labels[test]
    np.testing.assert_array_equal(probe.probe_accuracy(features, labels, test), expected)


def test_labels() -> None:
    scenes = draw_scenes(60, 64, 0)
    for scene in scenes:
        kinds = [kind for kind, _ in scene.objects]
        assert BACKGROUNDS[probe.label_of(scene, "ground")].name == scene.background  # type: ignore[index]
        if scene.relation is None:
            assert probe.label_of(scene, "kind") == KIND_INDEX[kinds[0]]
            assert probe.label_of(scene, "count") == len(kinds) - 1 and probe.label_of(scene, "side") is None
        else:
            assert probe.label_of(scene, "kind") is None and probe.label_of(scene, "count") is None
            # From the boxes: where the kind that is listed first stands.
            places = {kind: (x + w / 2, y + h / 2) for kind, (x, y, w, h) in scene.objects}
            first, second = sorted(kinds, key=KIND_INDEX.__getitem__)
            dx, dy = (places[first][i] - places[second][i] for i in (0, 1))
            side = ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else "above" if dy < 0 else "below"
            assert RELATIONS[probe.label_of(scene, "side")] == side  # type: ignore[index]


def test_wrong_captions_are_wrong_in_one_thing() -> None:
    seen = set()
    for index, scene in enumerate(draw_scenes(40, 64, 0)):
        for skill in SKILLS:
            captions = captions_for(scene, skill, np.random.default_rng(index))
            assert (captions is None) == ((scene.relation is None) == (skill == "relation"))
            if captions is None:
                continue
            seen.add(skill)
            right, wrong = captions
            assert right != wrong
            one, other = parse_prompt(right), parse_prompt(wrong)
            if skill == "relation":
                assert isinstance(one, AskedRelation) and isinstance(other, AskedRelation)
                assert (one.first, one.second) == (other.first, other.second)
                assert one.relation == scene.relation != other.relation
            elif skill == "ground":
                assert right.split(" on ")[0] == wrong.split(" on ")[0]
            else:
                assert isinstance(one, Asked) and isinstance(other, Asked)
                assert (one.kind == other.kind) == (skill == "count") and (one.count == other.count) == (
                    skill == "kind"
                )
    assert seen == set(SKILLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openmoji-cross-intermediate", "openmoji-4-concat-early"])
def test_on_a_shipped_model(name: str) -> None:
    """Features are means of the blocks' outputs over quarters, and losses those of the objective."""
    model = open_models([name], torch.device("cpu"))[0]
    scenes = draw_scenes(24, model.pipeline.image_size, 0)
    latents = encode_scenes(model.pipeline, scenes)
    found = probe.block_features(model, latents, [""] * 24, 0.3, batch_size=16)
    assert list(found)[3] == "mid_block" and len(found) == 7 and found["mid_block"].shape == (24, 4, 192)
    outputs = {}
    handle = model.model.in_blocks[1].register_forward_hook(lambda _, args, out: outputs.update(x=out))
    noise = image_noise(latents, 0)
    times = model.pipeline.objective.times_at(torch.full((24,), 0.3))
    noisy = model.pipeline.objective.noisy_latents(latents, noise, times)
    with torch.no_grad():
        model.model(noisy, times, *model.pipeline.text_encoder([""] * 24))
    handle.remove()
    patches = outputs["x"][:, -64:].reshape(24, 8, 8, 192)
    assert found["in_blocks.1"][:, 1] == pytest.approx(patches[:, :4, 4:].mean((1, 2)).numpy(), abs=1e-4)
    information = measure_information(model, scenes, 24, [0.3], batch_size=16)
    place, captions = next(
        (place, captions)
        for place, scene in enumerate(scenes)
        if (captions := captions_for(scene, "kind", np.random.default_rng((0, place)))) is not None
    )
    times, noisy = times[:1], model.pipeline.objective.noisy_latents(latents[place : place + 1], noise[:1], times[:1])
    for which, caption in enumerate(("", *captions)):  # the first scene with the skill has the first noise
        with torch.no_grad():
            guess = model.model(noisy, times, *model.pipeline.text_encoder([caption]))
        assert information.losses["kind"][0, which, 0] == pytest.approx(
            float(model.pipeline.objective.loss(guess, latents[place : place + 1], noise[:1], times)), rel=1e-3
        )
    accuracies = probe.probe(model, scenes, [0.3])
    assert accuracies.right["ground"].shape == (1, 7, 6)

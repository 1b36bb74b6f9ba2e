"""The shipped counter on drawn scenes, prompts that cannot be read, and further thresholds."""

import json

import pytest
from PIL import Image

from ifuvit.data.scenes import BACKGROUNDS, draw_scene
from ifuvit.evaluation.networks import load_counter
from ifuvit.metrics.counting.counters import count_images, second_count
from ifuvit.metrics.counting.parsing import Asked
from ifuvit.metrics.counting.scores import Detection
from ifuvit.results import CountedImage, Counter
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Files of 40 scenes that no training has seen, and the prompts for which they are right."""
    folder = tmp_path_factory.mktemp("scenes")
    files, prompts = [], []
    for index in range(40):
        scene = draw_scene(977, index, split="val")
        files.append(folder / f"{index:02d}.png")
        Image.fromarray(scene.image).save(files[-1])
        prompts.append(scene.captions[0])
    return files, prompts


def test_the_shipped_counter_counts_scenes(scenes):
    counter = load_counter()
    result = count_images(*scenes, counter, thresholds=(0.4, 0.6))
    assert len(result.images) == result.counted == 40
    assert result.counts.overall.right.value >= 0.95
    assert result.relations.overall.right.value >= 0.9
    assert [one.threshold for one in result.thresholds] == [0.4, 0.6]
    assert result.thresholds[0].counts.right.value >= 0.9
    assert counter.facts().name == "openmoji" and len(counter.facts().sha256 or "") == 64
    errors = counter.facts().errors
    assert set(errors) == {"clean", "blurred", "noisy", "reconstructed"}
    for scores in errors.values():
        assert scores.counts.overall.right.value > 0.99
        assert scores.relations.overall.right.value > 0.99
    json.dumps(to_dict(result))


def test_wrong_images_are_seen_to_be_wrong(scenes):
    files, prompts = scenes
    result = count_images(files, [*prompts[1:], prompts[0]], load_counter())
    assert result.counts.overall.right.value <= 0.1


class Planted:
    """A counter that finds in every image what its file is called: "0.9_0.6.png" has two sheep of these scores."""

    every_kind, threshold = True, 0.5

    def parse(self, prompt):
        return Asked("sheep", int(prompt)) if prompt.isdigit() else None

    def find(self, files, asked, *, threshold):
        scores = [[float(one) for one in file.stem.split("_")] for file in files]
        return [[Detection("sheep", 1.23, 4.56, one) for one in row if one >= threshold] for row in scores]

    def facts(self):
        return Counter(name="planted")


def test_a_further_threshold_scores_as_a_counter_of_that_threshold(tmp_path):
    files = [tmp_path / name for name in ("0.9_0.6.png", "0.9_0.2.png", "0.7.png")]
    result = count_images(files, ["2", "2", "what a day"], Planted(), thresholds=(0.1, 0.8))
    assert result.counts.overall.match_ratio.value == 0.5
    assert [one.counts.match_ratio.value for one in result.thresholds] == [1.0, 0.0]
    assert [one.relations for one in result.thresholds] == [None, None]
    assert result.counted == 2 and result.images[2] == CountedImage(file="0.7.png", prompt="what a day")
    assert result.images[1] == CountedImage(
        file="0.9_0.2.png", prompt="2", counted={"sheep": 1}, objects=(("sheep", 1.2, 4.6, 0.9),), right=False
    )
    swept = Planted()
    swept.threshold = 0.1
    again = count_images(files, ["2", "2", "what a day"], swept)
    assert again.counts.overall == result.thresholds[0].counts


def test_a_second_counter_and_how_far_both_agree(tmp_path):
    """Two counters that differ in their threshold: of three images one is right to the first alone."""
    files = [tmp_path / name for name in ("0.9_0.6.png", "0.9_0.8.png", "0.7.png", "0.9.png")]
    prompts, strict = ["2", "2", "2", "what a day"], Planted()
    strict.threshold = 0.65
    first, second = ({"paper": count_images(files, prompts, counter)} for counter in (Planted(), strict))
    found = second_count(first, second, strict.facts())
    assert found.scores["paper"].counts == second["paper"].counts
    assert found.same_verdict["paper"].value == found.same_objects["paper"].value == pytest.approx(2 / 3)
    assert found.difference["paper"].value == pytest.approx(1 / 3) and found.difference["paper"].n == 3
    assert second_count(second, first, strict.facts()).difference["paper"].value == pytest.approx(-1 / 3)


def test_grounds_are_looked_at_where_prompts_name_one(scenes):
    files, _ = scenes
    grounds = [draw_scene(977, index, split="val").background for index in range(40)]
    phrases = {one.name: one.phrase for one in BACKGROUNDS}
    prompts = [f"a sheep {phrases[ground]}" for ground in grounds[:-1]] + ["a sheep"]
    found = count_images(files, prompts, load_counter())
    assert found.counts.overall.right_ground.value == 1 and found.counts.overall.right_ground.n == 39
    assert [one.ground for one in found.images] == [*grounds[:-1], None]
    shifted = count_images(files[1:], prompts[:-1], load_counter())
    assert shifted.counts.overall.right_ground.value < 0.5


def test_as_many_prompts_as_images(tmp_path):
    with pytest.raises(InputError, match="1 images, 2 prompts"):
        count_images([tmp_path / "a.png"], ["a bus", "a bus"], Planted())


def test_nothing_to_count():
    result = count_images([], [], load_counter(), thresholds=(0.3,))
    assert result.counts is None and result.relations is None and result.images == ()

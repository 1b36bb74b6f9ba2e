"""What captions state about scenes, and the tests of true against false captions with embeddings made by hand."""

import json
import shutil

import numpy as np
import pytest

from ifuvit.data.scenes import KINDS, RELATIONS, draw_scene, prompt_for, relation_prompt_for, write_scenes
from ifuvit.standins.caption_tests import (
    Meaning,
    _retrieval,
    describes,
    measure,
    plain_prompts,
    read_scenes,
    stated,
    table,
)
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=30, val=60, seed=3)


def codes(*meanings):
    return np.array([meaning.codes() for meaning in meanings])


def test_equal_meanings_have_equal_codes():
    one = Meaning(("bus", "apple"), "left of", "sand")
    assert one.codes() == Meaning(("apple", "bus"), "right of", "sand").codes()
    others = [
        Meaning(("apple", "bus"), "left of", "sand"),
        Meaning(("bus", "apple"), "above", "sand"),
        Meaning(("bus", "apple"), "left of", "snow"),
        Meaning(("bus", "sheep"), "left of", "sand"),
        Meaning(("bus",), None, "sand"),
        Meaning(("bus", "bus"), None, "sand"),
    ]
    assert len({one.codes(), *(other.codes() for other in others)}) == 7


def test_a_caption_is_true_of_every_image_that_it_fits():
    images = codes(
        Meaning(("bus", "apple"), "left of", "sand"),
        Meaning(("apple", "bus"), "left of", "sand"),
        Meaning(("bus", "bus"), None, "sand"),
        Meaning(("bus", "bus"), None, "snow"),
    )
    captions = codes(
        Meaning(("apple", "bus"), "right of", None),
        Meaning(("apple", "bus"), None, None),
        Meaning(("bus", "bus"), None, None),
        Meaning(("bus", "bus"), None, "snow"),
        Meaning(("bus",), None, None),
    )
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(describes(captions, images), np.array(expected, bool))


def test_what_captions_state():
    two = Meaning(("cat", "dog"), "above", "grass")
    assert stated("a cat over a dog", two) == Meaning(("cat", "dog"), "above", None)
    assert stated("a cat and a dog on grass", two) == Meaning(("cat", "dog"), None, "grass")
    assert stated("at the top a cat and at the bottom a dog", two).relation == "above"
    three = Meaning(("bus",) * 3, None, "blue")
    assert stated("3 buses on a blue background", three) == three
    assert stated("exactly three buses", three).background is None


def test_every_relation_but_the_plain_and_is_recognized():
    """Against the renderer: of all captions of two kinds, those without a relation are "A and B", maybe on a ground."""
    without = set()
    for index in range(400):
        scene = draw_scene(0, index, size=32, split="train")
        if scene.relation is None:
            continue
        meaning = Meaning(tuple(kind for kind, _ in scene.objects), scene.relation, scene.background)
        for caption in scene.captions:
            if stated(caption, meaning).relation is None:
                first, second = meaning.objects
                for kind in (first, second):
                    caption = caption.replace(f"an {kind}", "X").replace(f"a {kind}", "X")
                without.add(caption.split(" on ")[0])
    assert without == {"X and X"}


def test_scenes_are_read_as_they_were_drawn(directory):
    scenes = read_scenes(directory, "val")
    assert len(scenes.files) == 60 and scenes.files[7].name == "000000000007.png"
    for number in range(60):
        drawn = draw_scene(3, number, split="val")
        assert scenes.meanings[number] == Meaning(
            tuple(kind for kind, _ in drawn.objects), drawn.relation, drawn.background
        )
        assert scenes.held_out[number] == drawn.held_out
        assert tuple(sorted(scenes.captions[row] for row in scenes.rows[number])) == tuple(sorted(drawn.captions))
        assert scenes.captions[scenes.rows[number][0]] == drawn.captions[0]
    # Every caption is true of its own image.
    true = describes(scenes.stated, scenes.shown)
    assert all(true[rows, number].all() for number, rows in enumerate(scenes.rows))


def test_fewer_images_and_captions(directory):
    some = read_scenes(directory, "train", images=5, captions=2)
    assert len(some.files) == 5 and all(len(rows) == 2 for rows in some.rows)
    second = [
        draw_scene(3, number, split="train").captions.index(some.captions[rows[1]])
        for number, rows in enumerate(some.rows)
    ]
    assert second == [1, 2, 3, 4, 1]
    half = read_scenes(directory, "train", images=10, relations=0.5)
    assert len(half.files) == 10 and sum(meaning.relation is not None for meaning in half.meanings) == 5
    # Not as many relations as asked for: others fill up.
    assert len(read_scenes(directory, "train", images=28, relations=0.9).files) == 28


def test_a_perfect_model_is_right_and_a_blind_one_guesses(directory):
    scenes = read_scenes(directory, "val")
    prompts = plain_prompts(scenes.meanings)
    # One direction for every code of objects and of relations: what a model that sees everything would give.
    shown, size = scenes.shown, 3000

    def embed(codes):
        vectors = np.zeros((len(codes), size + 20), np.float32)
        for row, (objects, relation, background) in enumerate(codes):
            vectors[row, objects] = 1
            vectors[row, size + relation] = 0.5
            vectors[row, size + 10 + background] = 0.5 if background else 0
        return vectors

    meanings = {}
    for meaning in scenes.meanings:
        if meaning.relation:
            a, b = meaning.objects
            for first, second in ((a, b), (b, a)):
                for relation in RELATIONS:
                    meanings[relation_prompt_for(first, relation, second)] = Meaning((first, second), relation, None)
    for kind in KINDS:
        for count in range(1, 6):
            meanings[prompt_for(kind.name, count)] = Meaning((kind.name,) * count, None, None)
    assert set(meanings) == set(prompts)
    plain = dict(zip(prompts, embed([meanings[prompt].codes() for prompt in prompts])))
    perfect = measure(scenes, embed(shown), embed(scenes.stated), plain)
    for scores in perfect.values():
        assert scores["count"]["of 5"] == scores["kind"]["of 42"] == scores["kind"]["of 2"] == 1
        assert scores["relation"]["of 4"] == scores["relation"]["objects swapped"] == 1
        assert set(scores["count"]["of 2"].values()) == {1.0}
    assert perfect["all"]["images"] == perfect["in training"]["images"] + perfect["held out"]["images"] == 60
    blind = measure(
        scenes, np.ones_like(embed(shown)), np.ones_like(embed(scenes.stated)), {p: np.ones(size + 20) for p in prompts}
    )
    # Ties are no success: a model that gives everything the same score never prefers the true caption.
    assert blind["all"]["relation"]["objects swapped"] == 0 and set(blind["all"]["count"]["of 2"].values()) == {0.0}
    assert "count, of 2: 2 or 3" in table(perfect) and "100.0" in table(perfect)


def test_retrieval_counts_any_true_caption(directory):
    scenes = read_scenes(directory, "val", captions=1)
    # Images are told apart by their objects alone, as the plainest captions of one kind are: many share one.
    images = np.eye(3000, dtype=np.float32)[scenes.shown[:, 0]]
    captions = np.eye(3000, dtype=np.float32)[scenes.stated[:, 0]]
    same = np.flatnonzero([meaning.relation is None for meaning in scenes.meanings])
    found = _retrieval(scenes, images, captions, same, len(same), 0)
    assert found == {"draws": 1, "caption of an image": 1.0, "image of a caption": 1.0}
    assert _retrieval(scenes, images, captions, same, 1000, 0) is None


def test_other_data_is_refused(tmp_path, directory):
    with pytest.raises(InputError, match="holds no scenes"):
        read_scenes(tmp_path, "train")
    shutil.copytree(directory, tmp_path / "copy")
    path = tmp_path / "copy" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "zebra"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not the annotations of OpenMoji Scenes"):
        read_scenes(tmp_path / "copy", "val")

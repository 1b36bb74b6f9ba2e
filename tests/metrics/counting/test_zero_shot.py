"""Detectors of photographs: non-maximum suppression against the plain definition, and tiny random OWLv2 and Grounding
DINO models, made offline, through transformers' own processors."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ifuvit.metrics.counting.counters import count_images
from ifuvit.metrics.counting.zero_shot import load_detector, suppress
from ifuvit.utils.errors import InputError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_owlv2(folder):
    import transformers

    library: Any = transformers
    folder.mkdir()
    vocab = {token: number for number, token in enumerate([*LETTERS, *(letter + "</w>" for letter in LETTERS)])}
    start, end = len(vocab), len(vocab) + 1
    vocab |= {"<|startoftext|>": start, "<|endoftext|>": end}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = library.CLIPTokenizerFast.from_pretrained(folder, model_max_length=40, pad_token="<|endoftext|>")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = library.Owlv2Config(
        text_config={**small, "vocab_size": len(vocab), "max_position_embeddings": 40, **ids},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    library.Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = library.Owlv2ImageProcessorPil(size={"height": 64, "width": 64})
    library.Owlv2Processor(images, tokenizer).save_pretrained(folder)


def save_grounding_dino(folder):
    import transformers

    library: Any = transformers
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", "dog", "cat", "bus", "traffic", "light"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = library.BertTokenizerFast.from_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    stages = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    halves = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = library.GroundingDinoConfig(
        backbone_config=library.SwinConfig(image_size=64, **stages, out_features=["stage2", "stage3", "stage4"]),
        text_config={"model_type": "bert", **small, "vocab_size": len(words), "max_position_embeddings": 32},
        **halves,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=9,
        d_model=32,
        max_text_len=32,
    )
    torch.manual_seed(0)
    library.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = library.GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 192})
    library.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    save_owlv2(folder / "owlv2")
    save_grounding_dino(folder / "grounding-dino")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """As `ifuvit generate` leaves them: of two sizes, and one prompt that is not judged."""
    folder = tmp_path_factory.mktemp("photographs")
    prompts = ["two dogs", "a cat", "two dogs", "three traffic lights", "a dog on a bench"]
    images = []
    for number, prompt in enumerate(prompts):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96 if number else 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"file": f"{number}.png", "prompt": prompt, "index": number})
    (folder / "manifest.json").write_text(json.dumps({"command": "generate", "images": images}))
    return folder, prompts


def overlap_of(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_the_plain_definition(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (40, 2))], axis=1)
    scores = rng.uniform(0, 1, 40).round(1)  # many are equal
    kept: list[int] = []
    for index in sorted(range(40), key=lambda one: -scores[one]):
        if all(overlap_of(boxes[index], boxes[other]) <= 0.4 for other in kept):
            kept.append(index)
    assert suppress(torch.from_numpy(boxes), torch.from_numpy(scores), overlap=0.4) == kept
    # What the sweep of thresholds relies on: the surer boxes alone give the surer part of what is kept.
    sure = np.flatnonzero(scores >= 0.5)
    among = suppress(torch.from_numpy(boxes[sure]), torch.from_numpy(scores[sure]), overlap=0.4)
    assert [sure[index] for index in among] == [index for index in kept if scores[index] >= 0.5]


def test_suppression_of_few_and_of_flat_boxes():
    assert suppress(torch.zeros(0, 4), torch.zeros(0)) == []
    same = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 20, 20], [20, 20, 20, 20]])
    assert suppress(same, torch.tensor([0.5, 0.9, 0.3, 0.2])) == [1, 2, 3]  # a box without area is no other's copy


@pytest.mark.parametrize(("name", "threshold"), [("owlv2", 0.1), ("grounding-dino", 0.25)])
def test_detectors_count_what_a_prompt_names(name, threshold, detectors, photographs):
    folder, prompts = photographs
    files, detector = [folder / f"{number}.png" for number in range(5)], load_detector(detectors / name)
    result = count_images(files, prompts, detector, thresholds=(0.5, 0.9))
    assert result.counted == 4 and result.relations is None and result.counts is not None
    assert result.counts.overall.right is None and result.counts.overall.match_ratio is not None
    assert set(result.counts.by_object) == {"dog", "cat", "traffic light"}
    assert (result.images[4].prompt, result.images[4].counted) == ("a dog on a bench", None)
    facts = detector.facts()
    assert facts.details["architecture"] == name and facts.threshold == threshold
    assert [one.threshold for one in result.thresholds] == [0.5, 0.9]
    assert all(one[3] >= threshold for image in result.images for one in image.objects)


@pytest.mark.parametrize("name", ["owlv2", "grounding-dino"])
def test_what_is_found_does_not_depend_on_the_batch(name, detectors, photographs):
    folder, prompts = photographs
    files = [folder / f"{number}.png" for number in (1, 2, 3)]
    asked = ["two dogs", "two dogs", "a dog"]
    one, three = (
        count_images(files, asked, load_detector(detectors / name, batch_size=size, threshold=0.05)).images
        for size in (1, 3)
    )
    assert any(image.objects for image in one)
    for a, b in zip(one, three):
        assert len(a.objects) == len(b.objects)
        for x, y in zip(a.objects, b.objects):
            assert x[0] == y[0] == "dog" and x[1:] == pytest.approx(y[1:], abs=0.11)


def test_boxes_are_counted_where_the_model_puts_them(detectors, photographs):
    """Planted answers of the model go through the processor's own scaling: a square padded image of 96 x 96."""
    detector = load_detector(detectors / "owlv2")
    planted = torch.tensor(
        [[0.25, 0.25, 0.2, 0.2], [0.26, 0.25, 0.2, 0.2], [0.75, 0.5, 0.1, 0.1], [0.5, 0.5, 0.9, 0.9]]
    )
    logits = torch.logit(torch.tensor([0.8, 0.9, 0.3, 0.05]))
    asked: list[Any] = []

    def model(**inputs):
        asked.append(inputs)
        count = len(inputs["pixel_values"])
        return SimpleNamespace(logits=logits.expand(count, 4)[..., None], pred_boxes=planted.expand(count, 4, 4))

    model.device, model.config, model.state_dict = torch.device("cpu"), detector.model.config, dict
    detector.model = model
    result = count_images([photographs[0] / "1.png"], ["two dogs"], detector, thresholds=(0.5, 0.01))
    assert [one[0] for one in result.images[0].objects] == ["dog", "dog"]
    assert result.images[0].objects[0][1:] == pytest.approx([0.26 * 96, 0.25 * 96, 0.9], abs=0.1)
    assert [one.counts.average_error.value for one in result.thresholds] == [1, 1]
    words = "".join(detector.processor.tokenizer.convert_ids_to_tokens(asked[0]["input_ids"][0]))
    assert words.startswith("<|startoftext|>a</w>photo</w>of</w>a</w>dog</w>")


def test_what_is_not_a_detector_is_refused(detectors, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_detector(tmp_path / "none")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_detector(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(detectors / "owlv2" / "model.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (detectors / "owlv2").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    del weights["class_head.logit_shift.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack class_head\.logit_shift\.weight"):
        load_detector(broken)

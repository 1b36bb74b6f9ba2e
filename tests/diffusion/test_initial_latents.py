import numpy as np
import pytest
import torch

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.sampling import initial_latents, initial_noise
from ifuvit.diffusion.schedule import alphas_cumprod
from ifuvit.pipeline import Pipeline
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError

COLOR = InitialLatentsDistribution(mean=(3.0, -1.0), covariance=((2.0, -0.5), (-0.5, 0.3)))


def test_colors_have_their_distribution():
    colors = COLOR.draw(np.random.default_rng(0).standard_normal((20_000, 2)))
    again = InitialLatentsDistribution.fit(colors)
    assert again.mean == pytest.approx(COLOR.mean, abs=0.05)
    assert np.allclose(again.covariance, COLOR.covariance, atol=0.05)


def test_one_color_has_no_spread():
    alone = InitialLatentsDistribution.fit(np.array([[3.0, -1.0]]))
    assert np.allclose(alone.draw(np.ones((4, 2))), [3, -1])
    # A singular covariance is no special case.
    line = InitialLatentsDistribution.fit(np.outer([1.0, 2.0, 4.0], [1.0, 1.0]))
    drawn = line.draw(np.random.default_rng(0).standard_normal((9, 2)))
    assert np.allclose(drawn[:, 0], drawn[:, 1], atol=1e-5) and drawn[:, 0].std() > 0.5


def test_json_and_what_is_not_that():
    assert from_dict(InitialLatentsDistribution, to_dict(COLOR)) == COLOR
    for change, message in (
        ({"mean": [0, 0, 0]}, "the covariance does not have 3 channels"),
        ({"covariance": [[1, 0], [0]]}, "the covariance does not have 2 channels"),
        ({"mean": [0.0, float("nan")]}, "not finite"),
    ):
        with pytest.raises(InputError, match=f"x: initial_latents: .*{message}"):
            from_dict(InitialLatentsDistribution, {**to_dict(COLOR), **change}, where="x")


def test_the_start_is_what_diffusion_leaves_of_such_colors():
    """Over the places of an image noise averages out; what is left has the mean and the spread of training's."""
    latents = initial_latents((2, 16, 16), 0, range(4_000), COLOR).mean((2, 3)).double().numpy()
    a = float(alphas_cumprod()[-1])
    assert np.allclose(latents.mean(0), np.sqrt(a) * np.array(COLOR.mean), atol=0.01)
    expected = a * np.array(COLOR.covariance) + (1 - a) / 256 * np.eye(2)
    assert np.allclose(np.cov(latents.T), expected, atol=1e-3)


def test_a_start_depends_on_seed_and_index_alone():
    whole = initial_latents((2, 4, 4), 7, range(5), COLOR)
    assert torch.equal(initial_latents((2, 4, 4), 7, [3], COLOR)[0], whole[3])
    assert not torch.equal(initial_latents((2, 4, 4), 8, [3], COLOR)[0], whole[3])
    assert torch.equal(initial_latents((2, 4, 4), 7, range(5), None), initial_noise((2, 4, 4), 7, range(5)))


def test_images_of_the_shipped_model_have_the_grounds_of_its_training():
    """From pure noise three of four have the same one of six grounds, whatever the seed."""
    pipeline = Pipeline.from_pretrained("openmoji-4-cross-intermediate")

    def grounds(initial):
        images = pipeline(["two apples"] * 24, initial_latents=initial, num_inference_steps=6)
        corners = np.stack([np.median(np.asarray(image)[:4].reshape(-1, 3), 0) for image in images])
        return corners.std(0).mean()

    assert grounds("data-mean") > 1.5 * grounds("noise")

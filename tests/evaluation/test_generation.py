"""Generating into a directory: whole after an interruption, the same for any batch size, never mixed."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.generation import draw
from ifuvit.evaluation.targets import open_target
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError

SETTINGS = SamplingSettings(steps=2, guidance_scale=2.0)
ALONE = Processes()
PROMPTS = ["a bus", "two sheep", "three apples", "a bus", "one sheep"]


@pytest.fixture(scope="module")
def target(tiny_run):
    return open_target(str(tiny_run), device=torch.device("cpu"))


def generate_images(
    target, directory, *, batch_size=2, processes=ALONE, prompts=PROMPTS, settings=SETTINGS, seed=0, **options
):
    return draw(target, prompts, directory, settings, seed=seed, batch_size=batch_size, processes=processes, **options)


def test_interrupted_and_resumed(target, tmp_path):
    calls = []

    def failing(prompts, settings, *, first_index, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(first_index)
        return target.generator(prompts, settings, first_index=first_index, **options)

    with pytest.raises(KeyboardInterrupt):
        generate_images(replace(target, generator=failing), tmp_path / "one")
    files, speed = generate_images(target, tmp_path / "one")
    assert calls == [0, 2] and speed is not None and speed > 0
    whole, _ = generate_images(target, tmp_path / "whole", batch_size=5)
    for one, other in zip(files, whole, strict=True):
        first, second = (torch.frombuffer(bytearray(Image.open(f).tobytes()), dtype=torch.uint8) for f in (one, other))
        assert (first.int() - second.int()).abs().max() <= 1
    assert generate_images(target, tmp_path / "one")[1] is None  # nothing left to do


def test_shares_make_the_whole(target, tmp_path):
    """Two processes' shares, done one after the other, are all images, once each."""

    class Two(Processes):
        def wait(self):
            pass

    for rank in (0, 1):
        files, _ = generate_images(target, tmp_path / "shared", batch_size=1, processes=Two(rank, 2))
    whole, _ = generate_images(target, tmp_path / "whole", batch_size=1)
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in whole]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": PROMPTS[:4]},
        {"settings": SETTINGS.changed(guidance_scale=4.0)},
        {"settings": SETTINGS.changed(initial_latents="noise")},
        {"fingerprint": "of another autoencoder, latent scale or text encoder"},
    ],
    ids=["prompts", "scale", "initial latents", "model"],
)
def test_other_images_are_not_mixed_in(target, tmp_path, changes):
    files, _ = generate_images(target, tmp_path / "one")
    if "fingerprint" in changes:
        target = replace(target, **changes)
        changes = {}
    with pytest.raises(InputError, match="holds images of other prompts, settings or another model"):
        generate_images(target, tmp_path / "one", **changes)
    # Unless they may be replaced: then all are generated again.
    files[0].write_bytes(b"stale")
    again, speed = generate_images(target, tmp_path / "one", replace_others=True, **changes)
    assert speed is not None and again[0].read_bytes() != b"stale"
    assert generate_images(target, tmp_path / "one", **changes)[1] is None


def test_a_directory_of_something_else(target, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds something else"):
        generate_images(target, tmp_path / "mine")

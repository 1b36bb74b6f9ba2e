"""U-ViT's own code as a benchmark case: a checkout of github.com/baofff/U-ViT that the user gives.

Of the checkout only the backbone, libs/uvit_t2i.py, is loaded. Its training step and its guided evaluation are a few lines
in scripts that cannot be imported without data and a tracker; what they do is repeated here, with the same optimizer, the
same schedule and the same average.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ifuvit.diffusion.objective import DDPM
from ifuvit.diffusion.schedule import add_noise
from ifuvit.model.settings import IFUViTConfig, as_uvit
from ifuvit.model.uvit import IFUViT
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import sha256

if TYPE_CHECKING:
    from accelerate import Accelerator

NAME = "U-ViT"
"""What its rows in results are called."""

_MODULE = "uvit_t2i"
_PACKAGE = "uvit_checkout"
_SOURCE = "https://github.com/baofff/U-ViT"


@dataclass(frozen=True)
class Reference:
    """A checkout's text-to-image backbone."""

    path: Path
    module: Any
    """libs/uvit_t2i.py, imported."""

    def build(self, config: IFUViTConfig) -> nn.Module:
        """The backbone in the size of `config`, with random weights.

        Raises:
            InputError: the checkout's class takes other arguments.
        """
        try:
            return self.module.UViT(
                img_size=config.latent_size,
                patch_size=config.patch_size,
                in_chans=config.latent_channels,
                embed_dim=config.embed_dim,
                depth=config.depth,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                clip_dim=config.text_width,
                num_clip_token=config.text_tokens,
            )
        except (TypeError, AttributeError) as error:
            raise InputError(f"--against {self.path}: its UViT is not the one of {_SOURCE} ({error})") from None

    def facts(self) -> dict[str, Any]:
        """What was timed, for results."""
        return {
            "sha256": sha256(_file(self.path)),
            "attention": getattr(self.module, "ATTENTION_MODE", None),
        }


def load_reference(path: Path) -> Reference:
    """Import the backbone of a checkout.

    Raises:
        InputError: it is not there, needs a package that is not installed, or cannot be imported.
    """
    if not _file(path).is_file():
        raise InputError(f"--against {path}: no libs/{_MODULE}.py there; give a checkout of {_SOURCE}")
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]  # of another checkout
    # The module says `from .timm import ...`, so it needs a package around it; under its own name, `libs`, it might be
    # mistaken for another package.
    spec = importlib.util.spec_from_loader(_PACKAGE, loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(_file(path).parent)]
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which attention it takes
            module = importlib.import_module(f"{_PACKAGE}.{_MODULE}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").removeprefix(f"{_PACKAGE}.")
        advice = "the checkout is incomplete" if missing != error.name else f"`pip install {missing}`"
        raise InputError(f"--against {path}: libs/{_MODULE}.py needs {missing!r}, which is missing; {advice}") from None
    except Exception as error:  # the checkout's code may raise anything
        raise InputError(
            f"--against {path}: libs/{_MODULE}.py cannot be imported ({type(error).__name__}: {error})"
        ) from None
    if not hasattr(module, "UViT"):
        raise InputError(f"--against {path}: libs/{_MODULE}.py has no class UViT; give a checkout of {_SOURCE}")
    return Reference(path, module)


def _file(path: Path) -> Path:
    return path / "libs" / f"{_MODULE}.py"


def differences_from_uvit(
    models: Mapping[str, IFUViTConfig],
    reference: Reference | None,
    batch: Mapping[str, Tensor],
    accelerator: "Accelerator",
) -> dict[str, dict[str, float]]:
    """`difference_from_uvit` of all models that are U-ViT, as a result holds it; empty without a checkout."""
    if reference is None:
        return {}
    return {
        "from_uvit": {
            name: difference_from_uvit(model, reference, batch, accelerator)
            for name, model in models.items()
            if model == as_uvit(model)
        }
    }


@torch.no_grad()
def difference_from_uvit(
    config: IFUViTConfig, reference: Reference, batch: Mapping[str, Tensor], accelerator: "Accelerator"
) -> float:
    """How far this package's predictions are from those of the checkout with the same weights: the largest difference over
    the largest prediction.

    Args:
        config: one that is U-ViT.
        batch: on the accelerator's device.
    """
    assert config == as_uvit(config)
    theirs, ours = reference.build(config).eval(), IFUViT(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latents, text = batch["latents"], batch["text_embeddings"].float()
    with accelerator.autocast():
        timesteps = DDPM().sample_times(batch["uniform"])
        expected = theirs.to(latents.device)(latents, timesteps, context=text)
        given = ours.to(latents.device)(latents, timesteps, text)
    return float((given - expected).abs().max() / expected.abs().max())


class ReferenceStep:
    """`train_step` of its train_t2i_discrete.py on latents and noise that are already drawn, with the settings of
    configs/mscoco_uvit_small.py: AdamW, a LambdaLR of linear warm-up, and an average that moves parameter by parameter.

    Left out are its logging and the draw of noise and timesteps, which the loader does here.
    """

    LEARNING_RATE, BETAS, WEIGHT_DECAY, WARMUP_STEPS, EMA_RATE = 2e-4, (0.9, 0.9), 0.03, 5_000, 0.9999

    def __init__(self, model: nn.Module, accelerator: "Accelerator") -> None:
        average = deepcopy(model).eval()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.LEARNING_RATE, betas=self.BETAS, weight_decay=self.WEIGHT_DECAY
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / self.WARMUP_STEPS, 1))
        self.accelerator = accelerator
        self.model, self.average, self.optimizer = accelerator.prepare(model, average, optimizer)

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Learn from a batch; returns the loss before the update."""
        self.optimizer.zero_grad()
        timesteps = DDPM().sample_times(batch["uniform"])
        noisy = add_noise(batch["latents"], batch["noise"], timesteps)
        predicted = self.model(noisy, timesteps, context=batch["text_embeddings"].float())
        loss = (batch["noise"] - predicted).pow(2).flatten(1).mean(1).mean()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.data.mul_(self.EMA_RATE).add_((1 - self.EMA_RATE) * value.data)
        return loss.detach()


def guided_step(
    model: nn.Module,
    latents: Tensor,
    timesteps: Tensor,
    text_embeddings: Tensor,
    null_embeddings: Tensor,
    guidance_scale: float,
) -> Tensor:
    """`cfg_nnet` of its eval_t2i_discrete.py: two forward passes, one after the other.

    Args:
        latents, timesteps: (B, C, H, W), (B,).
        text_embeddings: (B, L, D) of the captions.
        null_embeddings: (L, D) of the null caption, repeated at every step as there.
        guidance_scale: the standard w; its own scale is w - 1.
    """
    conditional = model(latents, timesteps, context=text_embeddings)
    null = model(latents, timesteps, context=null_embeddings.repeat(len(latents), 1, 1))
    return conditional + (guidance_scale - 1) * (conditional - null)

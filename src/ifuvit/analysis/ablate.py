"""Where text matters, by effect: what happens if the image reads other text, or none, in some of the fused blocks.

An intervention changes what image tokens read in a block, for the prompts' branch alone: the null branch of guidance and, where
text has tokens in the sequence, their own path are as ever.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ifuvit.analysis.attention import RecordedAttention, record, sample_observed
from ifuvit.analysis.common import AnalyzedModel, Bands, finding, measured, middle_blocks, write_arrays
from ifuvit.analysis.recording import Pass
from ifuvit.data.images import EncodedImage
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.metrics.counting.parsing import Asked
from ifuvit.metrics.counting.scores import is_right
from ifuvit.model.blocks import Block, JointBlock
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.results import Finding, Measurement

if TYPE_CHECKING:
    from PIL.Image import Image

    from ifuvit.metrics.alignment.base import AlignmentModel
    from ifuvit.metrics.counting.counters import ImageCounter

Replacement = Literal["null", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """What image tokens read."""

    name: str
    """As "without", "only" or "top token hidden"; "caption" is none at all."""
    block: str | None = None
    """The block that it is about."""
    blocks: frozenset[str] = frozenset()
    """The fused blocks in which they do not read the caption."""
    replace_by: Replacement = "null"
    """What they read there: the null caption's text in the same block, or no text at all."""
    hidden: tuple[tuple[int, ...], ...] | None = None
    """Text tokens of each prompt that no fused block sees."""
    levels: tuple[float, float] = (0.0, 1.0)
    """The noise levels at which it acts."""


@contextmanager
def replace_text(
    model: IFUViT, blocks: frozenset[str], replace_by: Replacement, untold: Tensor | None = None
) -> Iterator[None]:
    """While it lasts, `model.guided` with both branches has the image tokens of the first read other text in these blocks.

    Args:
        untold: (B, ...) what modulates the blocks without text; read if "nothing" replaces the text of a model whose blocks
            the pooled caption modulates.
    """

    def hook(block: Block | JointBlock, arguments: Any, out: Tensor) -> Tensor:
        # The block once more: the first branch's image tokens with all else of the second, from which no more than text differs.
        x, skip = arguments[:2]
        half, num_image = len(x) // 2, 1 + model.config.num_patches

        def mixed(tokens: Tensor) -> Tensor:
            return torch.cat([tokens[half:, :-num_image], tokens[:half, -num_image:]], 1)

        *_, text, mask, vector, first_values = (_second(part, half) for part in arguments)
        if replace_by == "nothing":
            text, mask = _no_text(model.config, x[half:], text, mask)
            vector = vector if untold is None else untold
        replaced = block.forward(mixed(x), None if skip is None else mixed(skip), text, mask, vector, first_values)
        out = out.clone()
        out[:half, -num_image:] = replaced[:, -num_image:]
        return out

    handles = [block.register_forward_hook(hook) for name, block in model.fused_blocks() if name in blocks]
    assert len(handles) == len(blocks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _second(part: Any, half: int) -> Any:
    """The second branch's rows of a tensor, a pair of tensors or None."""
    if part is None or isinstance(part, Tensor):
        return None if part is None else part[half:]
    return tuple(one[half:] for one in part)


def _no_text(
    config: IFUViTConfig, x: Tensor, text: tuple[Tensor, Tensor] | None, mask: Tensor | None
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """A block's text and mask (over keys, text first) such that nothing of the text is read."""
    if config.two_softmaxes:  # whose second would be empty
        assert text is not None
        return (text[0], torch.zeros_like(text[1])), mask
    if config.conditioning == "adaln":
        return text, mask
    seen = torch.ones(
        len(x), 1, 1, x.shape[1] if text is None else config.text_tokens, dtype=torch.bool, device=x.device
    )
    seen[..., : config.text_tokens] = False
    return text, seen


class AblatedModel:
    """A backbone for `Pipeline(..., denoiser=...)` under an intervention.

    Args:
        rows: the prompts of the batch, as places in `intervention.hidden`.
    """

    def __init__(self, model: IFUViT, intervention: Intervention, rows: Sequence[int]) -> None:
        self.model, self.intervention, self.rows = model, intervention, rows

    def guided(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: EncodedText,
        null_text: EncodedText,
        guidance_scale: float | Tensor = 4.0,
    ) -> Tensor:
        """As `IFUViT.guided`; where the intervention acts, both branches run whatever the scale is."""
        low, high = self.intervention.levels
        if not low <= float(timesteps[0]) / 1000 <= high:
            return self.model.guided(latents, timesteps, text, null_text, guidance_scale=guidance_scale)
        if self.intervention.hidden is not None:
            text, null_text = hide_tokens(text, null_text, [self.intervention.hidden[row] for row in self.rows])
        if not isinstance(guidance_scale, Tensor):
            guidance_scale = torch.full((len(latents),), float(guidance_scale), device=latents.device)
        untold = None
        if self.intervention.replace_by == "nothing" and self.model.config.pools_text:
            untold = self.model.modulating(self.model.encode_image(latents, timesteps).time)
        with replace_text(self.model, self.intervention.blocks, self.intervention.replace_by, untold):
            return self.model.guided(latents, timesteps, text, null_text, guidance_scale=guidance_scale)


def hide_tokens(
    text: EncodedText, null_text: EncodedText, hidden: Sequence[Sequence[int]]
) -> tuple[EncodedText, EncodedText]:
    """Text in which no fused block sees some tokens of each prompt, and the null text as it was, with masks.

    Args:
        hidden: for each row of `text`, places of tokens.
    """
    mask, null_mask = _mask(text), _mask(null_text)
    for row, places in enumerate(hidden):
        mask[row, list(places)] = False
    return text._replace(mask=mask), null_text._replace(mask=null_mask)


def _mask(text: EncodedText) -> Tensor:
    """A mask of one's own, (B, L): what text has, or nothing masked."""
    if text.mask is not None:
        return text.mask.clone()
    part = text.tokens if text.tokens is not None else text.keys
    assert part is not None
    return torch.ones(len(part), part.shape[-2], dtype=torch.bool, device=part.device)


def random_tokens_of_share(
    shares: np.ndarray, sink: int, candidates: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Random tokens, one after the other, until they together get as much attention as `sink`, but never all of them.

    Args:
        shares: (L,) attention to each token.
        candidates: tokens to draw from, without `sink`.
    """
    chosen: list[int] = []
    for token in rng.permutation(list(candidates)).tolist()[: max(len(candidates) - 1, 1)]:
        if sum(shares[one] for one in chosen) >= shares[sink]:
            break
        chosen.append(token)
    return tuple(chosen)


# ---------------------------------------------------------------------------------------------------------- measurements


def interventions(
    model: AnalyzedModel, blocks: Sequence[str], replace_by: Replacement, levels: tuple[float, float]
) -> list[Intervention]:
    """The caption as it is, no caption, and each of `blocks` without it and alone with it; where fused blocks are at the ends
    and in the middle, also all of the one and all of the other without it."""
    fused = frozenset(model.fused)
    middle = fused & set(middle_blocks(model.model.config.depth))
    plain = Intervention(name="caption", replace_by=replace_by, levels=levels)
    found = [plain, replace(plain, name="no caption", blocks=fused)]
    if len(fused) > 1:
        found += [replace(plain, name="without", block=name, blocks=frozenset([name])) for name in blocks]
        found += [replace(plain, name="only", block=name, blocks=fused - {name}) for name in blocks]
    if middle and middle != fused:
        found += [replace(plain, name="without middle", blocks=middle)]
        found += [replace(plain, name="without ends", blocks=fused - middle)]
    return found


def sink_interventions(
    recorded: RecordedAttention, levels: tuple[float, float], seed: int
) -> tuple[list[Intervention], np.ndarray]:
    """The token with most attention hidden, and random tokens of equal share; and the shares of both, (2, Q)."""
    shares = recorded.overall(recorded.text).mean((1, 2, 4))  # (Q, L): over blocks, heads and patches
    tops = shares.argmax(1)
    randoms = []
    for row, top in enumerate(tops.tolist()):
        candidates = [token for token in range(shares.shape[1]) if token != top]
        rng = np.random.default_rng(np.random.SeedSequence((seed, row)))
        randoms.append(random_tokens_of_share(shares[row], top, candidates, rng))
    of_text = shares / shares.sum(1, keepdims=True)
    hidden_shares = np.array(
        [
            [of_text[row, [top]].sum() for row, top in enumerate(tops)],
            [of_text[row, list(r)].sum() for row, r in enumerate(randoms)],
        ]
    )
    return [
        Intervention(name="top token hidden", hidden=tuple((top,) for top in tops.tolist()), levels=levels),
        Intervention(name="random tokens hidden", hidden=tuple(randoms), levels=levels),
    ], hidden_shares


@dataclass(frozen=True, kw_only=True)
class AblationEffects:
    """What each of I interventions does to each of Q prompts."""

    interventions: tuple[Intervention, ...]
    recorded: RecordedAttention | None
    """Of the caption as it is; None if no image token attends to text."""
    changes: np.ndarray
    """(I, Q, G), squared change of the predicted noise (or whatever is predicted) over that of taking the caption away, on the
    way that the caption's own images take; NaN in bands without evaluations."""
    scores: dict[str, np.ndarray]
    """By name, (I, Q): "alignment", and 0 or 1 for "counts right" and "relations right"; NaN where a prompt asks for neither."""
    hidden_shares: np.ndarray | None
    """(2, Q), share of text attention of the top token and of the random ones that are hidden in its place."""
    images: "tuple[tuple[Image, ...], ...]"
    """(I)(Q)."""


def ablate(
    model: AnalyzedModel,
    prompts: Sequence[str],
    settings: SamplingSettings,
    *,
    blocks: Sequence[str] = (),
    replace_by: Replacement = "null",
    levels: tuple[float, float] = (0.0, 1.0),
    bands: int = 5,
    sinks: bool = True,
    alignment: "AlignmentModel | None" = None,
    counter: "ImageCounter | None" = None,
    seed: int = 0,
    batch_size: int = 8,
) -> AblationEffects:
    """Sample the prompts under every intervention, and measure.

    Args:
        blocks: fused blocks, one at a time; all by default.
        replace_by, levels: see `Intervention`.
        bands: of noise levels, by which changes of the prediction are told: at the first evaluation in each.
        sinks: whether to hide tokens too, where image tokens attend to any.
        alignment, counter: what scores the images.

    Raises:
        InputError: a prompt that is empty or too long, or a block that does not exist or is not fused.
    """
    chosen = model.choose(blocks)
    found = Bands(bands)
    states: dict[int, dict[int, tuple[Tensor, Tensor]]] = {}  # by first row of the batch and band

    def keep(rows: slice, observed: Pass) -> None:
        states.setdefault(rows.start, {}).setdefault(
            found.index(observed.level), (observed.latents, observed.timesteps)
        )

    every = interventions(model, chosen, replace_by, levels)
    recorded = hidden_shares = None
    if model.attends_to_text:
        recorded = record(model, prompts, settings, bands=bands, seed=seed, batch_size=batch_size, also=keep)
        plain = list(recorded.images)
        if sinks:
            hiding, hidden_shares = sink_interventions(recorded, levels, seed)
            every += hiding
    else:
        plain = sample_observed(model, prompts, settings, keep, seed=seed, batch_size=batch_size)
    changes = np.full((len(every), len(prompts), bands), np.nan)
    images = [plain, *([] for _ in every[1:])]
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        rows = list(range(start, start + len(part)))
        with torch.no_grad():
            text = model.model.encode_text(*model.pipeline.text_encoder(part))
            null = model.model.encode_text(*model.pipeline.text_encoder([""]))
            for band, (latents, timesteps) in states[start].items():
                one = torch.ones(len(part), device=latents.device)
                with_caption = model.model.guided(latents, timesteps, text, null, guidance_scale=one)
                without = model.model.guided(latents, timesteps, text, null, guidance_scale=0 * one)
                whole = _squared(without - with_caption)
                for number, intervention in enumerate(every):
                    ablated = AblatedModel(model.model, intervention, rows)
                    predicted = ablated.guided(latents, timesteps, text, null, guidance_scale=one)
                    changes[number, rows, band] = _squared(predicted - with_caption) / whole
        for number, intervention in enumerate(every[1:], 1):
            images[number] += model.pipeline(
                part,
                settings,
                seed=seed,
                first_index=start,
                batch_size=batch_size,
                denoiser=AblatedModel(model.model, intervention, rows),
            )
    return AblationEffects(
        interventions=tuple(every),
        recorded=recorded,
        changes=changes,
        scores=_scores(images, prompts, alignment, counter),
        hidden_shares=hidden_shares,
        images=tuple(map(tuple, images)),
    )


def _squared(differences: Tensor) -> np.ndarray:
    return differences.double().square().flatten(1).sum(1).cpu().numpy()


def _scores(
    images: "Sequence[Sequence[Image]]",
    prompts: Sequence[str],
    alignment: "AlignmentModel | None",
    counter: "ImageCounter | None",
) -> dict[str, np.ndarray]:
    scores: dict[str, np.ndarray] = {}
    files = [[_encoded(image, number) for number, image in enumerate(row)] for row in images]
    if alignment is not None:
        scores["alignment"] = np.stack([alignment.cosines(row, prompts)[0] for row in files])
    if counter is not None:
        asked = [counter.parse(prompt) for prompt in prompts]
        places = [place for place, one in enumerate(asked) if one is not None]
        wanted = [one for one in asked if one is not None]
        for name in ("counts right", "relations right"):
            scores[name] = np.full((len(images), len(prompts)), np.nan)
        for number, row in enumerate(files):
            objects = counter.find([row[place] for place in places], wanted, threshold=counter.threshold)
            for place, one, there in zip(places, wanted, objects, strict=True):
                name = "counts right" if isinstance(one, Asked) else "relations right"
                scores[name][number, place] = is_right(one, there, every_kind=counter.every_kind)
    return {name: values for name, values in scores.items() if np.isfinite(values).any()}


def _encoded(image: "Image", number: int) -> EncodedImage:
    written = io.BytesIO()
    image.save(written, format="PNG", compress_level=1)
    return EncodedImage(f"image {number}", written.getvalue)


def measurements(model: AnalyzedModel, effects: AblationEffects, bands: Bands) -> list[Measurement]:
    """Changes of the prediction, scores, and what each intervention costs of them (the caption's score less its own)."""
    found: list[Measurement] = []
    for number, one in enumerate(effects.interventions):
        fields: dict[str, Any] = {"model": model.name, "of": one.name, "block": one.block}
        found += measured(np.nanmean(effects.changes[number], 1), quantity="change of the prediction", **fields)
        for band, edges in enumerate(bands.edges):
            values = effects.changes[number, :, band]
            found += measured(values, quantity="change of the prediction", levels=edges, **fields)
        for name, scores in effects.scores.items():
            found += measured(scores[number], quantity=name, **fields)
            if number:
                found += measured(scores[0] - scores[number], quantity=f"{name}, lost", **fields)
    if effects.hidden_shares is not None:
        for name, shares in zip(("top token hidden", "random tokens hidden"), effects.hidden_shares):
            found += measured(shares, model=model.name, quantity="hidden share of text attention", of=name)
    return found


def findings(model: AnalyzedModel, effects: AblationEffects) -> list[Finding]:
    """The paper's claims about early fusion by effect, and whether the top token matters more than others."""
    place = {one.name: number for number, one in enumerate(effects.interventions) if one.block is None}
    change = np.nanmean(effects.changes, 2)
    found: list[Finding] = []
    if "without ends" in place:
        found += finding(
            "Most of the text information is fused around the bottleneck.",
            change[place["without middle"]] - change[place["without ends"]],
            model=model.name,
            text="Taking the caption from the middle blocks changes the prediction more than taking it from all others by "
            "{difference}, in units of taking it away altogether: {verdict}.",
        )
        for name, scores in effects.scores.items():
            found += finding(
                f"Taking text from early and late blocks does not hurt, but helps: {name}.",
                scores[place["without ends"]] - scores[place["caption"]],
                model=model.name,
                text="Without the caption in early and late blocks of this model, which was trained with it there, the score "
                "changes by {difference}: {verdict}.",
            )
    if "top token hidden" in place:
        found += finding(
            "The token with most attention matters more than random tokens with as much.",
            change[place["top token hidden"]] - change[place["random tokens hidden"]],
            model=model.name,
            text="Hiding it changes the prediction more than hiding random tokens by {difference}: {verdict}.",
        )
    return found


def write_effects(file: Path, effects: AblationEffects, prompts: Sequence[str], bands: Bands) -> None:
    """Write changes and scores as an .npz file with named axes."""
    arrays: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "changes": (effects.changes, ("intervention", "prompt", "band"))
    }
    for name, scores in effects.scores.items():
        arrays[name.replace(" ", "_")] = (scores, ("intervention", "prompt"))
    if effects.hidden_shares is not None:
        arrays["hidden_shares"] = (effects.hidden_shares, ("hidden", "prompt"))
    write_arrays(
        file,
        arrays,
        intervention=[f"{one.name} {one.block or ''}".strip() for one in effects.interventions],
        prompt=list(prompts),
        band=[list(edges) for edges in bands.edges],
    )

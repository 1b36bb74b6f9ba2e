"""Singular values of the text-image block of attention, and what they are worth: the paper's rank analysis with controls.

The block is the attention of image patches (rows, border cropped) to text tokens (columns), of one head at one evaluation of
the network, or the mean of these maps over heads and evaluations.

Shapes: Q prompts, G bands of noise levels and after them all levels, F fused blocks, K singular values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ifuvit.analysis.attention import crop
from ifuvit.analysis.common import (
    AnalyzedModel,
    Bands,
    finding,
    measured,
    middle_blocks,
    over,
    sentence,
    write_arrays,
)
from ifuvit.analysis.recording import Logits, ObservedModel, Pass, observe, probabilities
from ifuvit.analysis.words import PromptTokens, read_tokens
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.results import Finding, Measurement

OWN = "own captions"
CONTROL_NAMES: Mapping[str, str] = {
    "shuffled": "shuffled captions",
    "random-model": "untrained model",
    "random-attention": "random attention",
}
"""The conditions under which text is read, by the names of the controls."""
TOKENS = ("all tokens", "without sinks")
ROWS = ("raw", "renormalized")
AVERAGES = ("mean of SVDs", "SVD of the mean")
SINK_FACTOR = 10
"""A token of a word is a sink from this many times the median share of the words' tokens."""
SINK_RULE = (
    f"Sinks are the start and end tokens, padding, and any token that gets over {SINK_FACTOR} times the median share of the "
    "words' tokens, in a block at an evaluation, on average over heads and patches."
)
QUANTITIES = ("sum of singular values", "effective rank", "stable rank", "energy of the first")


def singular_values(matrices: Tensor) -> Tensor:
    """(..., M, N) -> (..., K), K = min(M, N), the largest first, float64.

    From the eigenvalues of the smaller Gram matrix in double precision: exact to 1e-8 of the largest value, which is below what
    single precision attention has, and many times as fast as an SVD.
    """
    exact = matrices.double()
    wide = exact.shape[-1] > exact.shape[-2]
    gram = exact @ exact.transpose(-2, -1) if wide else exact.transpose(-2, -1) @ exact
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(-1)


def quantities(values: np.ndarray) -> dict[str, np.ndarray]:
    """What singular values (..., K) say, by the names of `QUANTITIES`: (...).

    Effective rank: the exponential of the entropy of the values over their sum (Roy and Vetterli 2007). Stable rank: the sum of
    their squares over the largest square. Energy of the first: its square over the sum of squares.
    """
    total = values.sum(-1, keepdims=True)
    share = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    squares = values**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sum of singular values": total[..., 0],
            "effective rank": np.exp(-(share * np.log(np.where(share > 0, share, 1))).sum(-1)),
            "stable rank": squares.sum(-1) / squares[..., 0],
            "energy of the first": squares[..., 0] / squares.sum(-1),
        }


def not_sinks(text: Tensor, tokens: Sequence[PromptTokens]) -> Tensor:
    """Which tokens are no sinks (`SINK_RULE`): attention (B, h, P, L) -> (B, L) bool."""
    shares = text.mean((1, 2))
    words = torch.tensor(
        [[c not in ("special", "padding") for c in one.categories] for one in tokens], device=text.device
    )
    median = torch.stack(
        [row[of_words].median() if of_words.any() else row.max() for row, of_words in zip(shares, words)]
    )
    return words & (shares <= SINK_FACTOR * median[:, None])


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Singular values of one model, each the mean over heads and evaluations, or of the mean map."""

    blocks: tuple[str, ...]
    conditions: tuple[str, ...]
    evaluations: np.ndarray
    """(G,), the last is their sum."""
    values: np.ndarray
    """(conditions, Q, G, F, TOKENS, ROWS, AVERAGES, K); NaN in bands without evaluations."""
    sink_shares: np.ndarray
    """(Q, F), mean share of text attention that sinks get, of the own captions."""

    def of(self, condition: str, tokens: str, rows: str, average: str) -> np.ndarray:
        """(Q, G, F, K)."""
        place = (TOKENS.index(tokens), ROWS.index(rows), AVERAGES.index(average))
        return self.values[(self.conditions.index(condition), slice(None), slice(None), slice(None), *place)]


def record_spectra(
    model: AnalyzedModel,
    prompts: Sequence[str],
    settings: SamplingSettings,
    *,
    bands: int = 3,
    crop_border: int = 1,
    controls: Sequence[str] = tuple(CONTROL_NAMES),
    seed: int = 0,
    batch_size: int = 8,
) -> Spectra:
    """Sample one image a prompt and take the singular values of the prompts' branch on the way.

    Args:
        controls: names of `CONTROL_NAMES`. They look at the same noisy latents: "shuffled" reads the caption of the prompt half
            of all prompts further on, "random-model" is a model of the same setting at initialization, "random-attention" is
            of normal queries and keys of the heads' width, whose products vary as much as the block's.

    Raises:
        InputError: a prompt that is empty or too long, or a border that leaves nothing.
    """
    tokens = [read_tokens(model.pipeline.text_encoder, prompt) for prompt in prompts]
    if len(prompts) < 2:
        controls = [name for name in controls if name != "shuffled"]
    sums = _Sums(model, prompts, tokens, Bands(bands), crop_border, controls, seed)
    for start in range(0, len(prompts), batch_size):
        sums.begin(np.arange(start, min(start + batch_size, len(prompts))))
        model.pipeline(
            prompts[start : start + batch_size],
            settings,
            seed=seed,
            first_index=start,
            batch_size=batch_size,
            denoiser=ObservedModel(model.model, sums.add),
        )
        sums.end()
    return sums.spectra()


class _Sums:
    """Running sums of singular values over evaluations, and of maps within a batch of prompts."""

    def __init__(
        self,
        model: AnalyzedModel,
        prompts: Sequence[str],
        tokens: Sequence[PromptTokens],
        bands: Bands,
        crop_border: int,
        controls: Sequence[str],
        seed: int,
    ) -> None:
        c, self.device = model.model.config, model.pipeline.device
        self.model, self.prompts, self.tokens, self.bands, self.seed = model, prompts, tokens, bands, seed
        self.config, self.controls = c, controls
        self.patches = torch.from_numpy(crop(np.arange(c.num_patches), crop_border).reshape(-1).copy()).to(self.device)
        self.untrained = _untrained(c, seed).to(self.device) if "random-model" in controls else None
        # Where text has a softmax of its own, each row of it sums to one as it is.
        self.is_normal = c.two_softmaxes
        shape = (
            1 + len(controls),
            len(prompts),
            bands.number + 1,
            len(model.fused),
            len(TOKENS),
            len(ROWS),
            len(AVERAGES),
        )
        self.values = np.zeros((*shape, min(len(self.patches), c.text_tokens)))
        self.evaluations = np.zeros(bands.number + 1, np.int64)
        self.sink_shares = np.zeros((len(prompts), len(model.fused)))

    @torch.no_grad()
    def begin(self, rows: np.ndarray) -> None:
        """Begin with the prompts in these rows."""
        self.rows, self.step = rows, 0
        self.others = (rows + len(self.prompts) // 2) % len(self.prompts)
        encoder = self.model.pipeline.text_encoder
        own, of_others = (encoder([str(self.prompts[i]) for i in part]) for part in (rows, self.others))
        self.text_of_others = self.model.model.encode_text(*of_others)
        self.text_of_untrained = None if self.untrained is None else self.untrained.encode_text(*own)
        shape = (1 + len(self.controls), len(rows), self.bands.number, len(self.model.fused), len(TOKENS))
        self.maps = torch.zeros(*shape, len(self.patches), self.config.text_tokens, device=self.device)

    def add(self, observed: Pass, text: EncodedText) -> None:
        """Add an evaluation, under every condition."""
        band = self.bands.index(observed.level)
        if self.rows[0] == 0:  # every batch has the same evaluations
            self.evaluations[[band, -1]] += 1
        for condition, name in enumerate((None, *self.controls)):
            captions = [self.tokens[i] for i in (self.others if name == "shuffled" else self.rows)]
            for place, (_, given) in enumerate(self._pass(name, observed).logits()):
                if name == "random-attention":
                    given = _random(given, self.config, [(self.seed, int(i), self.step, place) for i in self.rows])
                attention = probabilities(given, self.config).text[:, :, 1:][:, :, self.patches]  # (B, h, P', L)
                kept = not_sinks(attention, captions)
                if name is None:
                    shares = attention.mean((1, 2))
                    self.sink_shares[self.rows, place] += ((shares * ~kept).sum(1) / shares.sum(1)).cpu().numpy()
                for number, chosen in enumerate((attention, attention * kept[:, None, None])):
                    self.maps[condition, :, band, place, number] += chosen.mean(1)
                    raw = _spectrum(chosen)
                    normal = raw if self.is_normal and number == 0 else _spectrum(_renormalized(chosen))
                    for form, spectrum in enumerate((raw, normal)):
                        for target in (band, -1):
                            self.values[condition, self.rows, target, place, number, form, 0] += spectrum
        self.step += 1

    def _pass(self, name: str | None, observed: Pass) -> Pass:
        if name == "shuffled":
            return observe(self.model.model, observed.latents, observed.timesteps, self.text_of_others)
        if name == "random-model":
            assert self.untrained is not None and self.text_of_untrained is not None
            return observe(self.untrained, observed.latents, observed.timesteps, self.text_of_untrained)
        return observed

    def end(self) -> None:
        """End with the prompts of `begin`: their mean maps are decomposed, and forgotten."""
        every = torch.cat([self.maps, self.maps.sum(2, keepdim=True)], 2)
        numbers = torch.from_numpy(self.evaluations).to(every).clamp(min=1)
        mean = every / numbers.view(-1, 1, 1, 1, 1)
        for form, one in enumerate((mean, _renormalized(mean))):
            self.values[:, self.rows[0] : self.rows[-1] + 1, :, :, :, form, 1] = singular_values(one).cpu().numpy()

    def spectra(self) -> Spectra:
        numbers = np.where(self.evaluations > 0, self.evaluations, np.nan)
        self.values[..., 0, :] /= numbers[:, None, None, None, None]
        self.values[:, :, self.evaluations == 0] = np.nan
        return Spectra(
            blocks=self.model.fused,
            conditions=(OWN, *(CONTROL_NAMES[name] for name in self.controls)),
            evaluations=self.evaluations,
            values=self.values,
            sink_shares=self.sink_shares / self.evaluations[-1],
        )


def _spectrum(maps: Tensor) -> np.ndarray:
    """Mean singular values over heads: (B, h, P, L) -> (B, K)."""
    return singular_values(maps).mean(1).cpu().numpy()


def _renormalized(maps: Tensor) -> Tensor:
    return maps / maps.sum(-1, keepdim=True).clamp(min=1e-12)


def _untrained(config: IFUViTConfig, seed: int) -> IFUViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IFUViT(config).eval()


def _random(given: Logits, config: IFUViTConfig, seeds: Sequence[tuple[int, ...]]) -> Logits:
    """Products of normal queries and keys of the heads' width, scaled to the standard deviation of each head's own."""
    generators = [np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds]
    heads, width = config.num_heads, config.embed_dim // config.num_heads

    def like(own: Tensor) -> Tensor:
        queries, keys = own.shape[-2:]
        draws = np.stack([one.standard_normal((heads, queries + keys, width), np.float32) for one in generators])
        q, k = torch.from_numpy(draws).to(own.device).split([queries, keys], 2)
        hidden = own.isinf()
        products = q @ k.transpose(-2, -1)
        scale = _deviation(own, hidden) / _deviation(products, hidden).clamp(min=1e-12)
        return (products * scale).masked_fill(hidden, -math.inf)

    return Logits(like(given.every), None if given.text is None else like(given.text))


def _deviation(logits: Tensor, hidden: Tensor) -> Tensor:
    """Standard deviation over all queries and seen keys: (B, h, Q, K) -> (B, h, 1, 1)."""
    seen = logits.masked_fill(hidden, math.nan).flatten(2)
    return (seen - seen.nanmean(-1, keepdim=True)).square().nanmean(-1).sqrt()[..., None, None]


# ------------------------------------------------------------------------------------------------------------- numbers


def label(condition: str, tokens: str, rows: str, average: str) -> str:
    """How a measurement is told apart: "own captions, without sinks, renormalized, mean of SVDs"."""
    return ", ".join((condition, tokens, rows, average))


def measurements(model: AnalyzedModel, spectra: Spectra, bands: Bands) -> list[Measurement]:
    """Every quantity of `QUANTITIES` by block, of all forms over all levels, and of the own captions by band too."""
    found: list[Measurement] = []
    for condition in spectra.conditions:
        for tokens in TOKENS:
            for rows in ROWS:
                for average in AVERAGES:
                    of = label(condition, tokens, rows, average)
                    every = quantities(spectra.of(condition, tokens, rows, average))
                    for place, block in enumerate(spectra.blocks):
                        for band, edges in enumerate((*bands.edges, None)):
                            if edges is not None and (condition != OWN or average != AVERAGES[0]):
                                continue
                            for quantity, values in every.items():
                                found += measured(
                                    values[:, band, place],
                                    model=model.name,
                                    quantity=quantity,
                                    of=of,
                                    block=block,
                                    levels=edges,
                                )
    for place, block in enumerate(spectra.blocks):
        found += measured(spectra.sink_shares[:, place], model=model.name, quantity="share of sinks", block=block)
    return found


def findings(models: Sequence[tuple[AnalyzedModel, Spectra]]) -> list[Finding]:
    """The paper's claims: early fusion has smaller singular values at its ends, and than intermediate fusion."""
    found: list[Finding] = []
    for model, spectra in models:
        middle = [i for i, name in enumerate(spectra.blocks) if name in middle_blocks(model.model.config.depth)]
        ends = [i for i in range(len(spectra.blocks)) if i not in middle]
        if not middle or not ends:
            continue
        for quantity, tokens, rows in _FORMS:

            def difference(
                condition: str,
                spectra: Spectra = spectra,
                quantity: str = quantity,
                tokens: str = tokens,
                rows: str = rows,
                middle: list[int] = middle,
                ends: list[int] = ends,
            ) -> np.ndarray:
                values = quantities(spectra.of(condition, tokens, rows, AVERAGES[0])[:, -1])[quantity]
                return values[:, middle].mean(1) - values[:, ends].mean(1)

            found += finding(
                f"Smaller at the ends than in the middle: {quantity}, {rows}, {tokens}.",
                difference(OWN),
                model=model.name,
                text="The middle blocks less those at the ends: {difference}: {verdict}."
                + _about_controls(difference(OWN), {c: difference(c) for c in spectra.conditions[1:]}),
            )
    for early, of_early in models:
        for other, of_other in models:
            if "early" not in str(early.target.setting) or "early" in str(other.target.setting):
                continue
            if of_early.values.shape[1] != of_other.values.shape[1]:
                continue
            for quantity, tokens, rows in _FORMS:
                values = [
                    quantities(one.of(OWN, tokens, rows, AVERAGES[0])[:, -1])[quantity].mean(1)
                    for one in (of_other, of_early)
                ]
                two_scales = rows == "raw" and early.model.config.two_softmaxes != other.model.config.two_softmaxes
                note = (
                    " In one of them text has a softmax of its own: raw values are on two scales." if two_scales else ""
                )
                found += finding(
                    f"Larger than in {early.name}: {quantity}, {rows}, {tokens}.",
                    values[0] - values[1],
                    model=other.name,
                    text="Means over the fused blocks differ by {difference}: {verdict}." + note,
                )
    return found


_FORMS = (
    ("sum of singular values", "all tokens", "raw"),
    ("sum of singular values", "without sinks", "renormalized"),
    ("effective rank", "all tokens", "raw"),
    ("effective rank", "without sinks", "renormalized"),
)


def _about_controls(own: np.ndarray, controls: Mapping[str, np.ndarray]) -> str:
    """What the controls show of a difference, whichever way it goes."""
    said = []
    whole = over(own)
    for name, values in controls.items():
        estimate, less = over(values), over(own - values)
        if estimate is None or less is None or whole is None:
            continue
        clear = less.interval is not None and not less.interval[0] <= 0 <= less.interval[1]
        same_sign = estimate.value * whole.value > 0
        if not clear:
            meaning = "no different, so the difference does not come from what this control takes away"
        elif same_sign and abs(estimate.value) >= abs(whole.value):
            meaning = "at least as large in the same direction, so it needs nothing that this control takes away"
        elif same_sign and abs(estimate.value) >= abs(whole.value) / 2:
            meaning = "more than half of it"
        elif same_sign:
            meaning = "less than half of it"
        else:
            meaning = "of the other sign"
        said.append(f" With {name} it is {sentence(estimate)}, {meaning}.")
    return "".join(said).replace("{", "(").replace("}", ")")


def write_spectra(file: Path, spectra: Spectra, prompts: Sequence[str], bands: Bands) -> None:
    """Write the singular values as an .npz file with named axes."""
    axes = ("condition", "prompt", "band", "block", "tokens", "rows", "average", "value")
    write_arrays(
        file,
        {
            "singular_values": (spectra.values, axes),
            "evaluations": (spectra.evaluations, ("band",)),
            "sink_shares": (spectra.sink_shares, ("prompt", "block")),
        },
        condition=spectra.conditions,
        prompt=list(prompts),
        band=[list(edges) for edges in (*bands.edges, (0.0, 1.0))],
        block=spectra.blocks,
        tokens=TOKENS,
        rows=ROWS,
        average=AVERAGES,
    )

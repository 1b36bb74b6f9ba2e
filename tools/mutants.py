"""Plausible mistakes in the arithmetic, and the tests that must die of them.

    python tools/mutants.py                     apply each in turn to a copy of the sources, and run its tests
    python tools/mutants.py --out RESULT.json   and keep what became of each, next to what an earlier call has tried
    python tools/mutants.py model/ ema          those whose file or name has one of these words
    python tools/mutants.py --check             only whether every one can still be applied

A mutant that survives names a gap in the tests, which must pass without one. Every run is a fork of one process that has
imported the libraries; a mutant takes about 5 s of one core.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 900
"""After which a mutant's tests count as hanging, and the mutant as dead."""


class Mutant(NamedTuple):
    file: str
    """Below src/ifuvit."""
    name: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Below tests; those that ought to see it."""


def of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, name, old, new, tuple(tests.split())) for name, old, new in changes]


MUTANTS = [
    *of(
        "model/uvit.py",
        "model/test_uvit.py",
        (
            "image-only skips are zero",
            "x = self._run(self.out_blocks[index], x, skips.pop(), vector=alone, first_values=image.values)",
            "x = self._run(self.out_blocks[index], x, 0 * skips.pop(), vector=alone, first_values=image.values)",
        ),
        (
            "image-only skips in the wrong order",
            "x = self._run(self.out_blocks[index], x, skips.pop(), vector=alone, first_values=image.values)",
            "x = self._run(self.out_blocks[index], x, skips.pop(0), vector=alone, first_values=image.values)",
        ),
        (
            "fused skips in the wrong order",
            "x = self._run(self.out_blocks[index], x, skips.pop(), next(keys_values), mask, fused, values)",
            "x = self._run(self.out_blocks[index], x, skips.pop(0), next(keys_values), mask, fused, values)",
        ),
        ("text without positions", "text = text + self.pos_embed[:, 1 : 1 + c.text_tokens]", "pass"),
        (
            "text positions off by one",
            "text = text + self.pos_embed[:, 1 : 1 + c.text_tokens]",
            "text = text + self.pos_embed[:, : c.text_tokens]",
        ),
        ("time without its position", "time[:, None] + pos_time, patches", "time[:, None], patches"),
        ("patches without positions", "patches = patches + pos_patches", "pass"),
        (
            "mask inverted",
            "return None if mask is None else mask[:, None, None, :]",
            "return None if mask is None else ~mask[:, None, None, :]",
        ),
        ("mask ignored", "mask = text_mask if c.mask_padding else None", "mask = None"),
        ("no last norm", "self.decoder_pred(self.norm(x[:, 1:]))", "self.decoder_pred(x[:, 1:])"),
        ("frequencies of another base", "math.log(10000.0)", "math.log(1000.0)"),
        ("sines first", "torch.cat([angles.cos(), angles.sin()], -1)", "torch.cat([angles.sin(), angles.cos()], -1)"),
        ("one image-only block more", "for index in range(c.image_only[0]):", "for index in range(c.image_only[1]):"),
        ("last convolution at full gain", "self.final_layer.weight.data /= math.sqrt(3)", "pass"),
    ),
    *of(
        "model/blocks.py",
        "model/test_uvit.py",
        (
            "keys and values swapped",
            "return keys, gated(values, self.text_gate)",
            "return gated(values, self.text_gate), keys",
        ),
        (
            "added softmaxes averaged",
            "attend(queries, keys, values, None) + attend(queries, *text, mask)",
            "(attend(queries, keys, values, None) + attend(queries, *text, mask)) / 2",
        ),
        (
            "attention without its residual",
            "x = x + Modulated.output(self.attn(normal, text, mask, first_values), attention)",
            "x = Modulated.output(self.attn(normal, text, mask, first_values), attention)",
        ),
        (
            "MLP without its norm",
            "Modulated.input(self.norm2(x), mlp)), mlp)\n\n\nclass JointBlock",
            "Modulated.input(x, mlp)), mlp)\n\n\nclass JointBlock",
        ),
        (
            "text keys without their norm",
            "return self.attn.keys_values(self.norm1(text)) if",
            "return self.attn.keys_values(text) if",
        ),
        ("text bypasses no skip", "text = max(x.shape[1] - skip.shape[1], 0)", "text = 0"),
    ),
    *of(
        "model/settings.py",
        "model/test_uvit.py model/test_flops.py",
        (
            "one fused block less",
            "return self.depth + 1 - sum(self.image_only)",
            "return self.depth - sum(self.image_only)",
        ),
        (
            "front and back swapped",
            "return self.n_image if isinstance(self.n_image, tuple)",
            "return self.n_image[::-1] if isinstance(self.n_image, tuple)",
        ),
    ),
    *of(
        "diffusion/schedule.py",
        "diffusion/test_schedule.py",
        (
            "linear betas",
            "torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2",
            "torch.linspace(BETA_START, BETA_END, NUM_TIMESTEPS, dtype=torch.float64)",
        ),
        (
            "noise of the next step",
            "_scales(timesteps.device)[:, timesteps.long() - 1]",
            "_scales(timesteps.device)[:, timesteps.long().clamp(max=999)]",
        ),
        ("SNR inverted", "a / (1 - a)]", "(1 - a) / a]"),
        ("signal not rooted", "torch.stack([a.sqrt(),", "torch.stack([a,"),
    ),
    *of(
        "diffusion/objective.py",
        "diffusion/test_objective.py",
        ("time 0", "return 1 + ((uniform", "return ((uniform"),
        (
            "sum of squares",
            "return differences.square().flatten(1).mean(1)",
            "return differences.square().flatten(1).sum(1)",
        ),
        ("Min-SNR clamped below", "snr.clamp(max=self.snr_gamma)", "snr.clamp(min=self.snr_gamma)"),
        ("Min-SNR not divided", "snr.clamp(max=self.snr_gamma) / snr", "snr.clamp(max=self.snr_gamma)"),
        ("velocity reversed", "(noise - latents).float()", "(latents - noise).float()"),
        ("path reversed", "return (1 - t) * latents + t * noise", "return t * latents + (1 - t) * noise"),
        (
            "clean errors unweighted",
            "return _mean_square(predicted.float() - latents.float()) / t.square()",
            "return _mean_square(predicted.float() - latents.float())",
        ),
        (
            "shift inverted",
            "return self.shift * t / (1 + (self.shift - 1) * t)",
            "return t / (self.shift + (1 - self.shift) * t)",
        ),
        ("logit-normal without its mean", "(self.logit_mean + self.logit_std * normal)", "(self.logit_std * normal)"),
        ("clean latents not divided by t", "(latents - predicted) / (time / NUM_TIMESTEPS)", "(latents - predicted)"),
    ),
    *of(
        "diffusion/sampling.py",
        "diffusion/test_sampling.py",
        ("time offset forgotten", "scheduler.timesteps.float() + objective.time_offset", "scheduler.timesteps.float()"),
        ("noise of the seed alone", "_bits(seed, index, _NOISE_STREAM)", "_bits(seed, 0, _NOISE_STREAM)"),
        (
            "solver's noise is the initial noise",
            "_NOISE_STREAM, _SOLVER_STREAM, _MEAN_STREAM = 0, 1, 2",
            "_NOISE_STREAM, _SOLVER_STREAM, _MEAN_STREAM = 0, 0, 2",
        ),
        ("euler-a without its factor", "latents = latents * float(1 + scheduler.sigmas[0] ** 2) ** 0.5", "pass"),
        ("rescaled the wrong way", "phi * deviations[0] / deviations[1]", "phi * deviations[1] / deviations[0]"),
    ),
    *of(
        "diffusion/initial_latents.py",
        "diffusion/test_initial_latents.py",
        ("no mean", "(np.array(self.mean) + normal @ root.T)", "(normal @ root.T)"),
        (
            "covariance not rooted",
            "root = vectors * np.sqrt(values.clip(min=0))",
            "root = vectors * values.clip(min=0)",
        ),
    ),
    *of(
        "training/ema.py",
        "training/test_ema.py",
        ("average jumps", "1 - self.decay_at(updates))", "self.decay_at(updates))"),
        (
            "ramp by its maximum",
            "min(self.decay, (1 + updates) / (10 + updates))",
            "max(self.decay, (1 + updates) / (10 + updates))",
        ),
        ("ramp one update late", "(1 + updates) / (10 + updates)", "updates / (9 + updates)"),
        ("swap forgets", "            average.copy_(present)", "            pass"),
    ),
    *of(
        "training/config.py",
        "training/test_loop.py::test_learning_rate",
        (
            "warm-up from zero",
            "return peak * (step + 1) / schedule.warmup_steps",
            "return peak * step / schedule.warmup_steps",
        ),
        ("cosine of twice the way", "math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)"),
        ("falls to zero", "(schedule.final_learning_rate + (1 - schedule.final_learning_rate) * left)", "left"),
    ),
    *of(
        "training/batches.py",
        "training/test_batches.py",
        ("dropout inverted", "dropped=dropout < self.caption_dropout", "dropped=dropout > self.caption_dropout"),
        (
            "ranks share a batch",
            "first = step * self.batch_size + self.rank * self.share",
            "first = step * self.batch_size",
        ),
        (
            "the same shuffle every epoch",
            "_generator(self.seed, _SHUFFLE, epoch)",
            "_generator(self.seed, _SHUFFLE, 0)",
        ),
        ("always the first caption", "begins + (captions * (ends - begins)).astype(np.int64)", "begins"),
        ("mask of the dropped caption stays", 'arrays["text_mask"][draws.dropped] = dataset.null_mask', "pass"),
        (
            "latents not normalized",
            "normalization.normalize(sample_posterior(moments, draws.posterior[part]))",
            "sample_posterior(moments, draws.posterior[part])",
        ),
        (
            "posterior's mean",
            "sample_posterior(moments, draws.posterior[part])",
            "sample_posterior(moments, 0 * draws.posterior[part])",
        ),
        ("radius of Box and Muller", "np.sqrt(-2 * np.log(1 - one))", "np.sqrt(-np.log(1 - one))"),
    ),
    *of(
        "training/setup.py",
        "training/test_loop.py",
        (
            "validation by raw weights",
            "            with self.ema.applied():\n                self._report(\n                    validate(",
            "            with nullcontext():\n                self._report(\n                    validate(",
        ),
    ),
    *of(
        "training/checkpoint.py",
        "training/test_checkpoint.py training/test_faults.py",
        (
            "the average is restored as the model",
            "set_model_state_dict(model, dict(checkpoint.model), options=options)",
            "pass",
        ),
        ("sums not compared", "    verify_checksums(directory)\n", ""),
        (
            "the oldest is kept",
            "good = [s for s in saved if s <= step][-max(keep, 1) :]",
            "good = [s for s in saved if s <= step][: max(keep, 1)]",
        ),
    ),
    *of(
        "metrics/distances/frechet.py",
        "metrics/distances/test_frechet.py evaluation/evaluators/test_distances.py",
        ("no difference of means", "float(((mu1 - mu2) ** 2).sum() + ", "float("),
        ("cross term once", "- 2 * cross)", "- cross)"),
        ("biased KID", "np.fill_diagonal(kernel[:, rows], 0)", "pass"),
        ("kernel of degree 2", "kernel *= kernel * kernel", "kernel *= kernel"),
        (
            "precision and recall swapped",
            "return float(lies_among(generated, real, k=k).mean()), float(lies_among(real, generated, k=k).mean())",
            "return float(lies_among(real, generated, k=k).mean()), float(lies_among(generated, real, k=k).mean())",
        ),
        ("one neighbor less", "np.partition(part, k, axis=1)[:, k]", "np.partition(part, k, axis=1)[:, k - 1]"),
        ("CMMD not times 1000", "return 1000 * (mean(x, x)", "return 100 * (mean(x, x)"),
        ("population covariance", "np.sqrt(len(values) - 1)", "np.sqrt(len(values))"),
    ),
    *of(
        "metrics/counting/scores.py",
        "metrics/counting/test_scores.py",
        ("signed error", "[float(abs(number - count))", "[float(number - count)"),
        ("at least as many", '"match_ratio": [float(number == count)', '"match_ratio": [float(number >= count)'),
        ("above is below", '(dy > 0) == (relation == "above")', '(dy < 0) == (relation == "above")'),
        ("right kind of none", "float(0 < number == total)", "float(number == total)"),
    ),
    *of(
        "metrics/alignment/base.py",
        "metrics/alignment/test_clip.py evaluation/test_run.py::test_each_image_is_scored_with_its_own_caption",
        (
            "captions shifted by one",
            "self.embed_captions(captions[part])",
            "self.embed_captions([*captions[1:], captions[0]][part])",
        ),
        ("the mean is clamped", "float((2.5 * values.clip(min=0)).mean())", "2.5 * max(values.mean(), 0)"),
    ),
    *of(
        "evaluation/evaluators/counts.py",
        "evaluation/test_run.py::test_a_protocols_sampling_reaches_the_images",
        (
            "counting prompts at the captions' scale",
            "guidance_scale=setup.protocol.count_guidance_scale",
            "guidance_scale=setup.protocol.sampling.guidance_scale",
        ),
    ),
    *of(
        "evaluation/protocols.py",
        "evaluation/test_run.py::test_a_protocols_sampling_reaches_the_images",
        (
            "quick from pure noise",
            "sampling=SamplingSettings(steps=25, guidance_scale=2.0)",
            'sampling=SamplingSettings(steps=25, guidance_scale=2.0, initial_latents="noise")',
        ),
    ),
    *of(
        "evaluation/run.py",
        "evaluation/test_run.py::test_a_protocols_sampling_reaches_the_images",
        (
            "the protocol's initial latents are dropped",
            "protocol.sampling.changed(guidance_scale=wanted.guidance_scale)",
            'protocol.sampling.changed(guidance_scale=wanted.guidance_scale, initial_latents="noise")',
        ),
    ),
    *of(
        "evaluation/reference_images.py",
        "evaluation/test_reference_images.py",
        (
            "always the first caption",
            "self.captions[row][int(draw * len(self.captions[row]))]",
            "self.captions[row][0]",
        ),
        (
            "always the plainest caption",
            "self.captions[row][int(draw * len(self.captions[row]))]",
            "min(self.captions[row], key=len)",
        ),
    ),
]


def can_be_applied(mutant: Mutant) -> bool:
    """Whether the text to change is there; else the list has grown old."""
    return mutant.old in (ROOT / "src" / "ifuvit" / mutant.file).read_text()


def passes(tests: Sequence[str], mutant: Mutant) -> bool:
    """Whether tests pass on a copy of the package with a mutant in it."""
    with tempfile.TemporaryDirectory() as place:
        package = Path(shutil.copytree(ROOT / "src" / "ifuvit", Path(place, "ifuvit")))
        file = package / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new, 1))
        words = Path(place, "words")
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            with open(words, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            signal.alarm(SECONDS)
            os._exit(_pytest(place, tests))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, 1, -signal.SIGALRM):  # no test found, or an error of pytest's own
            raise SystemExit(f"{mutant.name}: {' '.join(tests)}: {words.read_text()[-2000:]}")
    return status == 0


def _pytest(place: str, tests: Sequence[str]) -> int:
    sys.path[:0] = paths = [place, str(ROOT / "tests" / "support"), str(ROOT / "tools")]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths))
    os.chdir(place)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not multiprocess"]
    status = int(pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)]))
    import ifuvit

    assert Path(ifuvit.__file__).parent.parent == Path(place), "tests another package"
    sys.stdout.flush()
    return status


def warm_up() -> None:
    """Import what the tests do, but for the package itself."""
    import accelerate  # noqa: F401
    import diffusers.models.autoencoders.autoencoder_kl  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401

    assert "ifuvit" not in sys.modules
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(word in f"{m.file} {m.name}" for word in options.words)]
    if stale := [f"{m.file}: {m.name}: has no {m.old!r}" for m in chosen if not can_be_applied(m)]:
        sys.exit("\n".join(stale))
    if options.check:
        print(f"{len(chosen)} mutants can be applied")
        return
    warm_up()
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = _earlier(options.out)
    try:
        for mutant in chosen:
            dies = not passes(mutant.tests, mutant)
            tried = datetime.now(timezone.utc).isoformat(timespec="seconds")
            rows[mutant.file, mutant.name] = {"file": mutant.file, "name": mutant.name, "dies": dies, "tried": tried}
            print(f"{'dies' if dies else 'SURVIVES'}: {mutant.file}: {mutant.name}", flush=True)
    except KeyboardInterrupt:
        print("stopped; the rest was not tried")
    dead = sum(bool(row["dies"]) for row in rows.values())
    print(f"{dead} of {len(rows)} die")
    if options.out:
        from ifuvit.utils.files import manifest, write_json

        facts = {"mutants": len(MUTANTS), "tried": len(rows), "die": dead, "which": list(rows.values())}
        write_json(options.out, manifest("tools/mutants.py", {}, started=started, **facts))
    sys.exit(dead < len(rows))


def _earlier(out: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """What an earlier call has tried of the mutants that there are."""
    if out is None or not out.exists():
        return {}
    known = {(mutant.file, mutant.name) for mutant in MUTANTS}
    rows = {(row["file"], row["name"]): row for row in json.loads(out.read_text())["which"]}
    return {key: row for key, row in rows.items() if key in known}


if __name__ == "__main__":
    main()

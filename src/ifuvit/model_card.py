"""The model card of a pipeline on the Hugging Face hub: what it is, what it was trained on, how good it is and how sure that is."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ifuvit import results
from ifuvit.results import Evaluation, Metric, TrainingFacts, Values
from ifuvit.utils.config import from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import package_version

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline

EXAMPLE_PROMPTS = ("three sheep on grass", "a red bus", "two apples", "a person left of a tree")
"""Of the widget."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says that the model itself does not know."""

    license: str
    """License of the weights, as the hub spells it: apache-2.0, cc-by-sa-4.0, other."""
    about: str = ""
    """A paragraph of the model card: what the model is, what it was trained on."""
    datasets: tuple[str, ...] = ()
    """Names on the hub of the training data."""
    evaluations: tuple[Path, ...] = ()
    """Results of `ifuvit evaluate`, whose metrics the card has with their intervals."""
    prompts: tuple[str, ...] = EXAMPLE_PROMPTS
    """Example prompts of the card, an image each."""

    def __post_init__(self) -> None:
        if not _LICENSE.fullmatch(self.license):
            raise InputError(
                f"--license {self.license}: give an identifier of the hub, as apache-2.0, cc-by-sa-4.0 or other"
            )

    def read_evaluations(self) -> list[Evaluation]:
        """What the files of `evaluations` hold.

        Raises:
            InputError: a file that is missing, damaged or of another command.
        """
        return [results.from_file(path, Evaluation) for path in self.evaluations]


def model_card(pipeline: "Pipeline", card: Card, *, name: str) -> str:
    """README.md with the hub's metadata. Example i has the image images/i.png.

    Args:
        name: "user/name", or a directory's name.

    Raises:
        InputError: an evaluation that cannot be read.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, prompts, evaluations = pipeline.model.config, card.prompts, card.read_evaluations()
    autoencoder, text_encoder = pipeline.autoencoder.reference, pipeline.text_encoder.reference
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    title = name.rpartition("/")[2]
    setting = results.Setting(conditioning=config.conditioning, n_text=config.n_text, n_image=config.n_image)
    data = ModelCardData(
        license=card.license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "ifuvit", "diffusers"],
        datasets=list(card.datasets) or None,
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="text-to-image",
                dataset_type=_identifier(where),
                dataset_name=where,
                metric_type=_identifier(metric.name),
                metric_name=metric.name,
                metric_value=_rounded(metric.value),
            )
            for evaluation in evaluations
            for where, metric in _metrics(evaluation)
        ]
        or None,
        widget=[{"text": prompt, "output": {"url": f"images/{i}.png"}} for i, prompt in enumerate(prompts)],
    )
    rows = [
        (
            "backbone",
            f"{parameters:,} parameters: width {config.embed_dim}, depth {config.depth}, {config.num_heads} heads",
        ),
        ("text enters by", setting.words),
        ("objective", pipeline.objective.label),
        ("images", f"{pipeline.image_size} x {pipeline.image_size} pixels"),
        ("text encoder", f"`{text_encoder}`, {config.text_tokens} tokens"),
        ("autoencoder", "in `vae/`" if autoencoder == "vae" else f"`{autoencoder}`, in `vae/`"),
        *_training_rows(pipeline.training),
        ("license", card.license),
    ]
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "",
        f"# {title}",
        "",
        card.about
        or "A text-to-image diffusion model of [ifuvit](https://arxiv.org/abs/2403.16530) (intermediate fusion ViT).",
        "",
        *_table(("", ""), rows),
        "",
        "## Use",
        "",
        "    pip install ifuvit",
        f'    ifuvit generate "{prompts[0] if prompts else "three sheep"}" --model {name}',
        "",
        "```python",
        "import ifuvit",
        "",
        f'pipeline = ifuvit.Pipeline.from_pretrained("{name}")',
        f"images = pipeline({list(prompts[:2])!r}, guidance_scale=4.0, num_inference_steps=15, seed=0)",
        "```",
        "",
        "With diffusers (`pipeline.py` only imports the installed `ifuvit`):",
        "",
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)',
        f'image = pipe("{prompts[0] if prompts else "three sheep"}").images[0]',
        "```",
        "",
        *_evaluation_lines(evaluations),
        f"Made with ifuvit {package_version()}.",
        "",
    ]
    return "\n".join(lines)


def _training_rows(training: Values | None) -> list[tuple[str, str]]:
    if training is None:
        return []
    facts = from_dict(TrainingFacts, training, where="training.json")
    words = f"{facts.steps:,} steps of {facts.batch_size} images"
    if facts.seconds is not None:
        words += f", {facts.seconds / 3600:.1f} hours"
    rows = [("training", words if facts.seed is None else f"{words}, seed {facts.seed}")]
    if facts.images is not None:
        words = f"{facts.images:,} images" + ("" if facts.captions is None else f", {facts.captions:,} captions")
        rows.append(("data", words if facts.data is None else f"{words} (encoded data set {facts.data[:12]})"))
    return rows


def _evaluation_lines(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    if not evaluations:
        yield from ("## Quality", "", "Not measured: `ifuvit evaluate` does that.", "")
        return
    yield from (
        "## Quality",
        "",
        "Intervals are 95 %. Real images, where there is a number, are as many of them under the same metric.",
        "",
    )
    for evaluation in evaluations:
        sampling = evaluation.protocol.get("sampling") or {}
        told = [f"{evaluation.protocol.get('name')} protocol"]
        if sampling.get("steps"):
            told.append(f"{sampling['steps']} steps, w = {sampling.get('guidance_scale')}")
        rows = [
            (
                where,
                metric.name,
                _shown(metric),
                "" if metric.reference is None else f"{_rounded(metric.reference.value)}",
            )
            for where, metric in _metrics(evaluation)
        ]
        yield from (", ".join(told) + ":", "")
        yield from _table(("on", "metric", "value", "real images"), rows)
        yield ""


def _metrics(evaluation: Evaluation) -> Iterator[tuple[str, Metric]]:
    """What was measured, and on what."""
    if evaluation.data is not None:
        where = f"{evaluation.data.images:,} reference images"
    else:
        where = "generated images"
    for metric in evaluation.metrics:
        yield where, metric
    for prompts, scores in evaluation.objects.items():
        if scores.counts is not None:
            for name, score in results.COUNT_SCORES.items():
                estimate = getattr(scores.counts.overall, name)
                if estimate is not None:
                    yield (
                        f"counting prompts: {prompts}",
                        Metric(
                            **vars(estimate), name=score.title, subject="counts", unit=score.unit, better=score.better
                        ),
                    )


def _shown(metric: Metric) -> str:
    percent = 100 if metric.unit == "share" else 1
    unit = " %" if metric.unit == "share" else f" {metric.unit}" if metric.unit else ""
    interval = (
        "" if metric.interval is None else " [{}, {}]".format(*(f"{_rounded(percent * x)}" for x in metric.interval))
    )
    return f"{_rounded(percent * metric.value)}{interval}{unit}"


def _rounded(value: float) -> float:
    """To four significant digits."""
    return value if value == 0 else round(value, 3 - math.floor(math.log10(abs(value))))


def _identifier(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

"""Text-image alignment: how well images fit their captions, next to the reference images' score."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ifuvit.data.images import ImageSource
from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup, captions
from ifuvit.evaluation.networks import load_alignment_model
from ifuvit.results import Metric, Reference
from ifuvit.utils.distributed import merge_shares

if TYPE_CHECKING:
    import numpy as np

    from ifuvit.evaluation.targets import Target
    from ifuvit.metrics.alignment.base import AlignmentModel


class Alignment:
    """See `Evaluator`."""

    requires_reference = True
    requires_captions = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.models = [
            load_alignment_model(
                name, weights=setup.weights.get(name), prefix=setup.protocol.prefix, device=setup.device
            )
            for name in setup.protocol.alignment
        ]
        self.references: list[Reference] = []

    def facts(self) -> Mapping[str, Any]:
        return {"networks": [_network(model) for model in self.models]}

    def image_sets(self) -> Sequence[ImageSet]:
        return [captions(self.setup)]

    def prepare(self) -> None:
        from ifuvit.metrics.alignment.base import clip_score

        assert self.setup.reference is not None
        chosen = self.setup.reference.choose(self.setup.protocol.num_images, self.setup.protocol.caption_seed)
        for model in self.models:
            cosines, _ = self._cosines(model, [file for file, _ in chosen], [caption for _, caption in chosen])
            score = clip_score(cosines)
            how = "real images with their own captions"
            self.references.append(Reference(value=score.cosine.value, n=score.cosine.n, how=how))

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        from ifuvit.metrics.alignment.base import clip_score

        metrics = []
        for model, reference in zip(self.models, self.references, strict=True):
            cosines, truncated = self._cosines(model, images["captions"].files, images["captions"].prompts)
            score = clip_score(cosines)
            details = {
                "standard_error": score.standard_error,
                "x100": score.times_100,
                "x2.5": score.clamped,
                "model": model.name,
                "prefix": model.prefix,
                "truncated": truncated,
            }
            metrics.append(
                Metric(
                    **vars(score.cosine),
                    name=model.score_name,
                    subject="alignment",
                    better="higher",
                    reference=reference,
                    network=_network(model),
                    details=details,
                )
            )
        return Findings(metrics=tuple(metrics))

    def _cosines(
        self, model: "AlignmentModel", files: Sequence[ImageSource], prompts: Sequence[str]
    ) -> "tuple[np.ndarray, int]":
        share, size = self.setup.processes.share, self.setup.protocol.size
        parts = self.setup.processes.all_gather(lambda: model.cosines(share(files), share(prompts), size=size))
        return merge_shares([cosines for cosines, _ in parts]), sum(truncated for _, truncated in parts)


def _network(model: "AlignmentModel") -> dict[str, Any]:
    return {"name": model.name, "fingerprint": model.fingerprint}

"""Counting in photographs: transformers' zero-shot object detectors (OWLv2, Grounding DINO), and which boxes count.

A detector is asked for the prompt's kind alone and gives boxes with scores. Those with at least the threshold's score
count, except that of boxes which overlap too much only the surest does (non-maximum suppression).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ifuvit.data.images import ImageSource, load_image
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_noun_phrase
from ifuvit.metrics.counting.scores import Detection
from ifuvit.results import Counter
from ifuvit.utils.errors import InputError
from ifuvit.utils.hub import check_whole, find_folder, loading

OVERLAP = 0.5
"""Intersection over union from which on two boxes are one object."""
# What each architecture was trained to be asked, and the threshold that transformers and the models' cards give for it.
_QUERIES = {"owlvit": "a photo of a {}", "owlv2": "a photo of a {}"}
_THRESHOLDS = {"owlvit": 0.1, "owlv2": 0.1}
_QUERY, _THRESHOLD = "{}", 0.25


def suppress(boxes: torch.Tensor, scores: torch.Tensor, *, overlap: float = OVERLAP) -> list[int]:
    """Non-maximum suppression: from the surest box on, each is kept unless one kept before overlaps it too much.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,). Of equal ones the first goes before.
        overlap: two boxes of a greater intersection over union are one object.

    Returns:
        Indices of the kept boxes, the surest first.
    """
    corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    inside = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    union = area[:, None] + area[None, :] - inside
    same = (inside > overlap * union).cpu().numpy()
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not same[index, kept].any():
            kept.append(index)
    return kept


class ZeroShotCounter:
    """Counts objects of any kind that a prompt names, in photographs. Its own error is not known. Made by
    `load_detector`."""

    every_kind = False

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        threshold: float | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> None:
        self.model, self.processor, self.name = model.eval(), processor, name
        architecture = model.config.model_type
        self.query = _QUERIES.get(architecture, _QUERY)
        self.threshold = _THRESHOLDS.get(architecture, _THRESHOLD) if threshold is None else threshold
        self.overlap, self.batch_size = overlap, batch_size

    def parse(self, prompt: str) -> Asked | AskedRelation | None:
        return parse_noun_phrase(prompt)

    @torch.no_grad()
    def find(
        self, files: Sequence[ImageSource], asked: Sequence[Asked | AskedRelation], *, threshold: float
    ) -> list[list[Detection]]:
        from tqdm import tqdm

        found: list[list[Detection]] = [[] for _ in files]
        places: dict[str, list[int]] = {}
        for place, one in enumerate(asked):
            assert isinstance(one, Asked)
            places.setdefault(one.kind, []).append(place)
        with tqdm(total=len(files), unit="image", desc="detecting", disable=None) as bar:
            # Images of one kind have one query, so that nothing has to be padded.
            for kind, of_kind in places.items():
                for start in range(0, len(of_kind), self.batch_size):
                    batch = of_kind[start : start + self.batch_size]
                    for place, objects in zip(batch, self._detect([files[i] for i in batch], kind, threshold)):
                        found[place] = objects
                    bar.update(len(batch))
        return found

    def _detect(self, files: Sequence[ImageSource], kind: str, threshold: float) -> list[list[Detection]]:
        images = [load_image(file) for file in files]
        texts = [[self.query.format(kind)]] * len(images)
        inputs = self.processor(text=texts, images=images, return_tensors="pt").to(self.model.device)
        boxes = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=threshold, target_sizes=[(image.height, image.width) for image in images]
        )
        found = []
        for one in boxes:
            corners, scores = one["boxes"].float(), one["scores"].float()
            kept = suppress(corners, scores, overlap=self.overlap)
            x, y = ((corners[kept, :2] + corners[kept, 2:]) / 2).T.tolist()
            found.append([Detection(kind, *one) for one in zip(x, y, scores[kept].tolist())])
        return found

    def facts(self) -> Counter:
        weights = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return Counter(
            name=self.name,
            threshold=self.threshold,
            sha256=weights.hexdigest(),
            details={
                "architecture": self.model.config.model_type,
                "query": self.query,
                "overlap": self.overlap,
            },
        )


def load_detector(
    reference: str | Path,
    *,
    threshold: float | None = None,
    overlap: float = OVERLAP,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
) -> ZeroShotCounter:
    """A counter for photographs.

    Args:
        reference: a folder or hub id of a zero-shot object detector of transformers with its processor, as
            google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny.
        threshold: least score of a box that counts; by default what transformers takes: 0.1 for OWL-ViT and OWLv2, 0.25
            for Grounding DINO and others.
        overlap: intersection over union above which two boxes are one object.
        batch_size: images at a time.
        device: where it computes.

    Raises:
        InputError: nothing there, no network, or something else than a zero-shot detector.
    """
    import transformers

    # Any: transformers' names are resolved at run time, where type checkers do not see them.
    library: Any = transformers
    advice = (
        "give a folder or hub id of a zero-shot detector with its processor, such as google/owlv2-base-patch16-ensemble"
    )
    # Whatever lies next to the weights: processors are spread over files of many names.
    folder = find_folder(str(reference), what="detector", advice=advice, files=["*.json", "*.txt"])
    with loading(f"detector {reference}"):
        processor = library.AutoProcessor.from_pretrained(folder)
        model, report = library.AutoModelForZeroShotObjectDetection.from_pretrained(folder, output_loading_info=True)
    check_whole(report, what=f"detector {reference}")
    if not hasattr(processor, "post_process_grounded_object_detection"):
        raise InputError(f"detector {reference}: its processor gives no boxes ({type(processor).__name__}); {advice}")
    return ZeroShotCounter(
        model.to(device), processor, name=str(reference), threshold=threshold, overlap=overlap, batch_size=batch_size
    )

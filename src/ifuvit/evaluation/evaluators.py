"""The evaluators of a protocol: feature networks with the real side's features, and models of text-image alignment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifuvit.data.images import ImageSource, fingerprint_of
from ifuvit.evaluation.protocols import Protocol
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.utils.distributed import Processes, in_order
from ifuvit.utils.files import atomic_path

if TYPE_CHECKING:
    import torch

    from ifuvit.metrics.alignment.clip import AlignmentModel
    from ifuvit.metrics.distances.feature_networks import FeatureNetwork
    from ifuvit.metrics.distances.frechet import FeatureStatistics

METRICS = ("distances", "alignment", "counts", "costs")
"""What can be measured of a target."""


class Evaluators:
    """The networks that judge, and what they say of the real images, computed once. Made by `load`."""

    def __init__(self, protocol: Protocol, processes: Processes) -> None:
        self.protocol, self.processes = protocol, processes
        # Each with the features of the reference, and of further real images for the floor.
        self._networks: list[tuple[FeatureNetwork, np.ndarray | FeatureStatistics, np.ndarray | None]] = []
        self._alignment: list[tuple[AlignmentModel, dict[str, Any]]] = []

    @classmethod
    def load(
        cls,
        protocol: Protocol,
        real: ReferenceImages,
        *,
        metrics: Sequence[str] = ("distances", "alignment"),
        device: "torch.device | str" = "cpu",
        weights: Mapping[str, str] | None = None,
        statistics: "FeatureStatistics | None" = None,
        cache: Path | None = None,
        processes: Processes | None = None,
    ) -> "Evaluators":
        """Load the protocol's networks and have them look at the real images.

        Args:
            protocol: which networks, and how many images of which size.
            real: the real side; its captioned images and, for the floors, further ones are used.
            metrics: "distances", "alignment" or both.
            device: where to compute.
            weights: file, folder or hub id by name of a network or alignment model, for those that are not embedded.
            statistics: of the real side, in place of the real images' features.
            cache: a directory in which the real side's features are kept for the next time.
            processes: of this launch; alone by default.

        Raises:
            InputError: weights are not to be had (the message says how to get them), too few real images, or statistics
                of another network.
        """
        from ifuvit.metrics.alignment.clip import clip_score, load_alignment_model
        from ifuvit.metrics.distances.feature_networks import load_feature_network
        from ifuvit.metrics.distances.frechet import check_statistics

        weights = weights or {}
        evaluators = cls(protocol, processes or Processes())
        chosen = real.choose(protocol.num_images, protocol.caption_seed)
        reference = real.files if protocol.reference == "all" else [file for file, _ in chosen]
        if "distances" in metrics:
            beyond = len(real) if protocol.reference == "all" else protocol.num_images
            others = real.others(protocol.num_images, protocol.caption_seed, beyond=beyond)
            for name in protocol.networks:
                network = load_feature_network(name, weights=weights.get(name), resize=protocol.resize, device=device)
                if statistics is not None:
                    check_statistics(statistics, network)  # before anything is drawn
                known = evaluators._features(network, reference, cache) if statistics is None else statistics
                further = evaluators._features(network, others, cache) if others is not None else None
                evaluators._networks.append((network, known, further))
        if "alignment" in metrics:
            files, captions = [file for file, _ in chosen], [caption for _, caption in chosen]
            for name in protocol.alignment:
                model = load_alignment_model(name, weights=weights.get(name), prefix=protocol.prefix, device=device)
                cosines, _ = evaluators._cosines(model, files, captions)
                evaluators._alignment.append((model, clip_score(cosines)))
        return evaluators

    def distances(self, files: Sequence[ImageSource]) -> dict[str, dict[str, Any]]:
        """Distances of images from the real ones, by name, as estimates with their real-versus-real floors.

        Raises:
            InputError: a file is no image, or a network gives features that are no numbers.
        """
        from ifuvit.metrics.distances.frechet import distances

        found: dict[str, dict[str, Any]] = {}
        for network, real, further in self._networks:
            features = self._features(network, files, None)
            for name, number in distances(features, real, network, other_real=further).items():
                found[name] = {**number, "network": network.facts()}
        return found

    def alignment(self, files: Sequence[ImageSource], captions: Sequence[str]) -> dict[str, dict[str, Any]]:
        """How well images fit their captions, by the score's name, as estimates beside the real pairs' score."""
        from ifuvit.metrics.alignment.clip import clip_score

        found: dict[str, dict[str, Any]] = {}
        for model, real in self._alignment:
            cosines, truncated = self._cosines(model, files, captions)
            found[model.score_name] = {
                **clip_score(cosines),
                "model": model.name,
                "prefix": model.prefix,
                "truncated": truncated,
                "network": {"name": model.name, "fingerprint": model.fingerprint},
                "real": {"value": real["value"], "n": real["n"], "how": "real images with their own captions"},
            }
        return found

    def _features(self, network: "FeatureNetwork", files: Sequence[ImageSource], cache: Path | None) -> np.ndarray:
        """(N, width) float32, from the cache if there is one."""
        from ifuvit.metrics.distances.feature_networks import extract_features

        kept = None
        if cache is not None:
            kept = cache / f"{network.name}-{_key(network.fingerprint, self.protocol, files)}.npy"
            if kept.is_file():
                return np.load(kept)
        features = extract_features(network, files, size=self.protocol.size)
        if kept is not None and self.processes.first:
            with atomic_path(kept) as path, open(path, "wb") as file:
                np.save(file, features)
        return features

    def _cosines(
        self, model: "AlignmentModel", files: Sequence[ImageSource], captions: Sequence[str]
    ) -> tuple[np.ndarray, int]:
        share = self.processes.share
        parts = self.processes.all_gather(lambda: model.cosines(share(files), share(captions), size=self.protocol.size))
        return in_order([cosines for cosines, _ in parts]), sum(truncated for _, truncated in parts)


def _key(fingerprint: str, protocol: Protocol, files: Sequence[ImageSource]) -> str:
    """What the features of real images depend on, in short."""
    import hashlib

    facts = [fingerprint, protocol.size, protocol.resize]
    facts += map(fingerprint_of, files)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]

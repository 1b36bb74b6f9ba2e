"""Distances of images from reference images over the protocol's feature networks, next to those of other real images."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifuvit.data.images import ImageSource, center_crop_resize, fingerprint_of
from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup, captions
from ifuvit.metrics.distances.frechet import (
    cmmd,
    distance_of_roots,
    kernel_distance,
    lies_among,
    precision_recall,
    root_of_covariance,
    root_of_features,
)
from ifuvit.metrics.distances.statistics import FeatureStatistics, check_widths
from ifuvit.metrics.intervals import estimate_from_halves, share
from ifuvit.results import Estimate, Metric, Reference
from ifuvit.utils.distributed import in_order
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, sha256

if TYPE_CHECKING:
    from ifuvit.evaluation.targets import Target
    from ifuvit.metrics.distances.feature_networks import FeatureNetwork


class Distances:
    """See `Evaluator`."""

    requires_reference = True
    requires_captions = False

    def __init__(self, setup: Setup) -> None:
        from ifuvit.metrics.distances.feature_networks import load_feature_network

        self.setup = setup
        self.networks = [
            load_feature_network(
                name, weights=setup.weights.get(name), resize=setup.protocol.resize, device=setup.device
            )
            for name in setup.protocol.networks
        ]
        self.statistics = None
        if setup.statistics is not None:
            self.statistics = load_statistics(setup.statistics, size=setup.protocol.size)
            for network in self.networks:
                check_statistics(self.statistics, network)
        # Of each network, the reference, and the features of further real images.
        self.reference: list[np.ndarray | FeatureStatistics] = []
        self.others: list[np.ndarray | None] = []

    def facts(self) -> Mapping[str, Any]:
        statistics = None if self.setup.statistics is None else sha256(self.setup.statistics)
        return {"networks": [network.facts() for network in self.networks], "statistics": statistics}

    def image_sets(self) -> Sequence[ImageSet]:
        return [captions(self.setup)]

    def prepare(self) -> None:
        reference, others = self._reference_files(), self._other_files()
        for network in self.networks:
            self.reference.append(self.statistics or self._features(network, reference, self.setup.cache))
            self.others.append(None if others is None else self._features(network, others, self.setup.cache))

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        metrics = []
        for network, reference, others in zip(self.networks, self.reference, self.others, strict=True):
            generated = self._features(network, images["captions"].files, None)
            found = distances(generated, reference, network, other_real=others)
            if self.setup.reconstruction_floor:
                decoded = distances(self._reconstructed(network, target), reference, network, other_real=others)
                how = "other real images, encoded and decoded by the model's autoencoder"
                floors = [{"value": metric.value, "n": metric.n, "how": how} for metric in decoded]
                found = [
                    replace(metric, details={"reconstructed": floor})
                    for metric, floor in zip(found, floors, strict=True)
                ]
            metrics += found
        return Findings(metrics=tuple(metrics))

    def _reconstructed(self, network: "FeatureNetwork", target: "Target") -> np.ndarray:
        """Features of the other real images after the model's autoencoder, (N, width) float32."""
        import torch

        if target.reconstruct is None:
            raise InputError(f"--reconstruction-floor: {target.name} has no autoencoder of this package")
        if (files := self._other_files()) is None:
            raise InputError(
                "--reconstruction-floor requires as many other real images as are generated; there are none"
            )
        size, mine = self.setup.protocol.size, self.setup.processes.share(files)

        reconstruct = target.reconstruct

        def work() -> np.ndarray:
            features = [np.empty((0, network.width), np.float32)]
            for start in range(0, len(mine), 32):
                decoded = reconstruct(mine[start : start + 32])
                resized = decoded if size is None else [center_crop_resize(image, size) for image in decoded]
                pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
                features.append(network(pixels).cpu().numpy())
            return np.concatenate(features)

        return in_order(self.setup.processes.all_gather(work))

    def statistics_of_reference(self, *, keep_features: bool) -> FeatureStatistics:
        """Statistics of the only network's features of the reference images, with the features themselves if asked for.

        Raises:
            InputError: fewer than two reference images.
        """
        from ifuvit.metrics.distances.feature_networks import extract

        (network,), files = self.networks, self._reference_files()
        if len(files) < 2:
            raise InputError(f"{len(files)} reference images: statistics require at least 2")
        statistics = FeatureStatistics(network.width)
        if keep_features:
            statistics.features = self._features(network, files, self.setup.cache)
            statistics.update(statistics.features)
            return statistics

        def add(batches: Iterator[np.ndarray]) -> FeatureStatistics:
            mine = FeatureStatistics(network.width)
            for batch in batches:
                mine.update(batch)
            return mine

        for part in extract(network, files, add, size=self.setup.protocol.size, progress=True):
            statistics.merge(part)
        return statistics

    def _reference_files(self) -> Sequence[ImageSource]:
        protocol, reference = self.setup.protocol, self.setup.reference
        assert reference is not None
        if protocol.reference == "all":
            return reference.files
        return [file for file, _ in reference.choose(protocol.num_images, protocol.caption_seed)]

    def _other_files(self) -> Sequence[ImageSource] | None:
        protocol, reference = self.setup.protocol, self.setup.reference
        assert reference is not None
        beyond = len(reference) if protocol.reference == "all" else protocol.num_images
        return reference.others(protocol.num_images, protocol.caption_seed, beyond=beyond)

    def _features(self, network: "FeatureNetwork", files: Sequence[ImageSource], cache: Path | None) -> np.ndarray:
        """(N, width) float32, from the cache if there is one."""
        from ifuvit.metrics.distances.feature_networks import extract_features

        size, kept = self.setup.protocol.size, None
        if cache is not None:
            facts = [network.fingerprint, size, self.setup.protocol.resize]
            facts += map(fingerprint_of, files)
            key = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
            kept = cache / f"{network.name}-{key}.npz"
            if (features := _cached(kept)) is not None:
                return features
        features = extract_features(network, files, size=size)
        if kept is not None and self.setup.processes.first:
            with atomic_path(kept) as path, open(path, "wb") as file:
                np.savez(file, features=features)
        return features


def _cached(file: Path) -> np.ndarray | None:
    """Features that were kept; None if there are none, or damaged ones (the archive has checksums)."""
    try:
        with np.load(file) as archive:
            return archive["features"]
    except (FileNotFoundError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None


def load_statistics(file: Path, *, size: int | None) -> FeatureStatistics:
    """Statistics of reference images of a protocol's size.

    Raises:
        InputError: not such a file, or of images of another size.
    """
    statistics = FeatureStatistics.load(file)
    if (made := statistics.facts.get("size", size)) != size:
        raise InputError(
            f"--statistics {file}: of images of size {made}, but the protocol has {size}; write them again with "
            "`ifuvit evaluate --write-statistics` under this protocol"
        )
    return statistics


def check_statistics(statistics: FeatureStatistics, network: "FeatureNetwork") -> None:
    """Check that a reference's statistics are comparable with features of `network`. Files of other programs do not name
    their network; those that do must have been made by the same one.

    Raises:
        InputError: they are of another dimension, network or resize, or have no features although CMMD requires them.
    """
    if statistics.width != network.width:
        raise InputError(
            f"the reference statistics have {statistics.width} dimensions, the features of {network.name} "
            f"{network.width}; make them with the same feature network (`ifuvit evaluate --write-statistics`)"
        )
    made = statistics.facts.get("network")
    for name, value in network.facts().items():
        if isinstance(made, Mapping) and made.get(name) != value:
            raise InputError(
                f"the reference statistics were made with the {name} {made.get(name)!r}, the features of the generated "
                f"images with {value!r}; make them again with `ifuvit evaluate --write-statistics`"
            )
    if statistics.features is None and network.distance.startswith("CMMD"):
        raise InputError(
            "CMMD requires features, and the reference statistics have none; write them with --keep-features"
        )


def distances(
    generated: np.ndarray,
    real: np.ndarray | FeatureStatistics,
    network: "FeatureNetwork",
    *,
    other_real: np.ndarray | None = None,
    seed: int = 0,
) -> list[Metric]:
    """All distances over one network's features.

    Names are "KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0"; over Inception "KID",
    "FID", "precision", "recall"; over CLIP "CMMD" only. Of statistics without features only the Fréchet distance.

    Intervals: of the Fréchet distance and CMMD from random halves of the generated images (the bootstrap would be
    biased upward, since repeated images narrow the distribution); of KID from its subsets; of precision and recall by
    the bootstrap. Each metric's reference is what other real images get. It is exact only with `other_real`: without
    them `real` is split, so that its own reference is smaller than the distance's and its bias higher.

    Args:
        generated: (N, D)
        real: (M, D), or their statistics.
        network: the features' network.
        other_real: (N, D) real images that are not among `real`, as many as are generated: best those whose captions
            were the prompts.
        seed: of all random subsets.

    Raises:
        InputError: the dimensions differ, the statistics are of another network or another resize, or there are fewer
            than 8 images.
    """

    def metric(
        found: Estimate, name: str, other: float | None, how: str, *, coverage: bool = False, decimals: int = 3
    ) -> Metric:
        return Metric(
            **vars(found),
            name=name,
            subject="coverage" if coverage else "distance",
            better="higher" if coverage else "lower",
            unit="share" if coverage else "",
            decimals=decimals,
            reference=None if other is None else Reference(value=other, how=how, n=len(some)),
            network=network.facts(),
        )

    if isinstance(real, FeatureStatistics):
        check_statistics(real, network)
        if real.features is None:
            _check_sides(generated, other_real)
            some, root = other_real if other_real is not None else [], root_of_covariance(real.covariance)
            found = _frechet(generated, (real.mean, root), seed=seed)
            floor = None if other_real is None else distance_of_roots(*root_of_features(other_real), real.mean, root)
            return [metric(found, network.distance, floor, f"{len(some)} real images against the reference statistics")]
        real = real.features
    _check_sides(generated, real, other_real)
    if other_real is None:
        size = min(len(generated), len(real) // 2)
        order = np.random.default_rng(seed).permutation(len(real))
        some, others = real[order[:size]], real[order[size:]]
    else:
        some, others = other_real, real
    how = f"{len(some)} real images against {len(others)} other real images"
    if network.distance.startswith("CMMD"):
        found = estimate_from_halves(lambda features: cmmd(features, real), generated, seed=seed)
        return [metric(found, network.distance, cmmd(some, others), how)]
    kernel_floor = kernel_distance(some, others, subsets=2).value
    frechet_floor = distance_of_roots(*root_of_features(some), *root_of_features(others))
    precision, recall = precision_recall(others, some)
    return [
        metric(kernel_distance(generated, real, seed=seed), f"KID{network.suffix}", kernel_floor, how),
        metric(
            _frechet(generated, root_of_features(real), seed=seed), network.distance, frechet_floor, how, decimals=2
        ),
        metric(share(lies_among(generated, real)), f"precision{network.suffix}", precision, how, coverage=True),
        metric(share(lies_among(real, generated)), f"recall{network.suffix}", recall, how, coverage=True),
    ]


def _check_sides(*sides: np.ndarray | None) -> None:
    given = [side for side in sides if side is not None]
    for side in given:
        if len(side) < 8:
            raise InputError(f"distances of {len(side)} images: give at least 8 on either side")
        check_widths(given[0].shape[1], side.shape[1])


def _frechet(generated: np.ndarray, real: tuple[np.ndarray, np.ndarray], *, seed: int) -> Estimate:
    return estimate_from_halves(
        lambda features: distance_of_roots(*root_of_features(features), *real), generated, seed=seed
    )

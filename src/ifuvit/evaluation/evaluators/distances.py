"""Distances of images from reference images over the protocol's feature networks, next to those of other real images."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
from ifuvit.utils.distributed import merge_shares
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, sha256

if TYPE_CHECKING:
    from ifuvit.evaluation.targets import ImageDecoder, Target
    from ifuvit.metrics.distances.feature_networks import FeatureNetwork

_DECODED_AT_ONCE = 16
"""Images that an autoencoder encodes and decodes at a time."""


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
        # Features of the decoded floor by network and autoencoder: a run is evaluated many times while it trains.
        self.decoded: dict[tuple[str, str], np.ndarray] = {}

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
        metrics, files = [], images["captions"].files
        for network, reference, others in zip(self.networks, self.reference, self.others, strict=True):
            generated = self._features(network, files, None)
            decoded = self._decoded(network, target.decoder, len(files), others is not None)
            metrics += distances(generated, reference, network, other_real=others, decoded=decoded)
        return Findings(metrics=tuple(metrics))

    def _decoded(
        self, network: "FeatureNetwork", decoder: "ImageDecoder | None", generated: int, others: bool
    ) -> np.ndarray | None:
        """Features of the floor's real images after the model's autoencoder, (N, width) float32; None if there is no
        autoencoder, or there are no such images."""
        files = self._other_files() if others else self._half_of_reference(generated)
        if decoder is None or files is None:
            return None
        key = (network.name, decoder.autoencoder.fingerprint)
        if key not in self.decoded:
            self.decoded[key] = self._features(network, files, self.setup.cache, decoder=decoder)
        return self.decoded[key]

    def _half_of_reference(self, generated: int) -> Sequence[ImageSource] | None:
        """Those that `distances` compares with the rest of the reference where there are no further real images."""
        if self.statistics is not None:
            return None
        files = self._reference_files()
        return [files[row] for row in split_for_floor(generated, len(files))[0]]

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

    def _features(
        self,
        network: "FeatureNetwork",
        files: Sequence[ImageSource],
        cache: Path | None,
        *,
        decoder: "ImageDecoder | None" = None,
    ) -> np.ndarray:
        """(N, width) float32 of files, or of what an autoencoder makes of them; from the cache if there is one."""
        from ifuvit.metrics.distances.feature_networks import extract_features

        size, kept = self.setup.protocol.size, None
        if cache is not None:
            facts = [network.fingerprint, size, self.setup.protocol.resize]
            facts += [] if decoder is None else [decoder.autoencoder.fingerprint, decoder.size]
            facts += map(fingerprint_of, files)
            key = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
            kept = cache / f"{network.name}-{key}.npz"
            if (features := _cached(kept)) is not None:
                return features
        if decoder is None:
            features = extract_features(network, files, size=size)
        else:
            features = self._features_of_decoded(network, files, decoder)
        if kept is not None and self.setup.processes.first:
            with atomic_path(kept) as path, open(path, "wb") as file:
                np.savez(file, features=features)
        return features

    def _features_of_decoded(
        self, network: "FeatureNetwork", files: Sequence[ImageSource], decoder: "ImageDecoder"
    ) -> np.ndarray:
        import torch
        from tqdm import tqdm

        size, mine = self.setup.protocol.size, self.setup.processes.share(files)

        def work() -> np.ndarray:
            features = [np.empty((0, network.width), np.float32)]
            hidden = None if self.setup.processes.first else True  # None: shown on a terminal
            with tqdm(total=len(mine), desc="decoded real images", unit="image", leave=False, disable=hidden) as bar:
                for start in range(0, len(mine), _DECODED_AT_ONCE):
                    images = decoder(mine[start : start + _DECODED_AT_ONCE])
                    resized = images if size is None else [center_crop_resize(image, size) for image in images]
                    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
                    features.append(network(pixels).cpu().numpy())
                    bar.update(len(images))
            return np.concatenate(features)

        return merge_shares(self.setup.processes.all_gather(work))


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


def split_for_floor(generated: int, real: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of reference images that are compared with the other rows, for a floor without further real images.

    Args:
        generated: how many images are generated.
        real: how many reference images there are.
        seed: of the choice.
    """
    order = np.random.default_rng(seed).permutation(real)
    size = min(generated, real // 2)
    return order[:size], order[size:]


def distances(
    generated: np.ndarray,
    real: np.ndarray | FeatureStatistics,
    network: "FeatureNetwork",
    *,
    other_real: np.ndarray | None = None,
    decoded: np.ndarray | None = None,
    seed: int = 0,
) -> list[Metric]:
    """All distances over one network's features.

    Names are "KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0"; over Inception "KID",
    "FID", "precision", "recall"; over CLIP "CMMD" only. Of statistics without features only the Fréchet distance.

    Intervals: of the Fréchet distance and CMMD from random halves of the generated images (the bootstrap would be
    biased upward, since repeated images narrow the distribution); of KID from its subsets; of precision and recall
    Wilson's. Each metric has two floors: what other real images get, and what these get once an autoencoder has encoded
    and decoded them. They are exact only with `other_real`: without them `real` is split (`split_for_floor`), so that the
    floor's reference is smaller than the distance's and its bias higher.

    Args:
        generated: (N, D)
        real: (M, D), or their statistics.
        network: the features' network.
        other_real: (N, D) real images that are not among `real`, as many as are generated: best those whose captions
            were the prompts.
        decoded: (N, D) the same real images after the model's autoencoder; without `other_real`, the first part of
            `split_for_floor`.
        seed: of all random subsets.

    Raises:
        InputError: the dimensions differ, the statistics are of another network or another resize, or there are fewer
            than 8 images.
    """
    if isinstance(real, FeatureStatistics):
        check_statistics(real, network)
        real = real if real.features is None else real.features
    known = [side for side in (generated, real, other_real, decoded) if isinstance(side, np.ndarray)]
    _check_sides(*known)
    if other_real is not None:
        some, others = other_real, real
    elif isinstance(real, FeatureStatistics):
        some, others = None, real
    else:
        rows, rest = split_for_floor(len(generated), len(real), seed)
        some, others = real[rows], real[rest]
    against = (
        "the reference statistics" if isinstance(others, FeatureStatistics) else f"{len(others)} other real images"
    )
    floors = _references(some, others, network, f"real images against {against}")
    decoded_floors = _references(
        decoded, others, network, f"real images, encoded and decoded by the model's autoencoder, against {against}"
    )
    return [
        Metric(
            **vars(found),
            name=name,
            subject="coverage" if name.startswith(("precision", "recall")) else "distance",
            better="higher" if name.startswith(("precision", "recall")) else "lower",
            unit="share" if name.startswith(("precision", "recall")) else "",
            decimals=2 if name == network.distance else 3,
            reference=floors.get(name),
            decoded_reference=decoded_floors.get(name),
            network=network.facts(),
        )
        for name, found in _estimates(generated, real, network, seed=seed).items()
    ]


def _estimates(
    generated: np.ndarray, real: np.ndarray | FeatureStatistics, network: "FeatureNetwork", *, seed: int
) -> dict[str, Estimate]:
    if isinstance(real, FeatureStatistics):
        return {network.distance: _frechet(generated, (real.mean, root_of_covariance(real.covariance)), seed=seed)}
    if network.distance.startswith("CMMD"):
        return {network.distance: estimate_from_halves(lambda features: cmmd(features, real), generated, seed=seed)}
    return {
        f"KID{network.suffix}": kernel_distance(generated, real, seed=seed),
        network.distance: _frechet(generated, root_of_features(real), seed=seed),
        f"precision{network.suffix}": share(lies_among(generated, real)),
        f"recall{network.suffix}": share(lies_among(real, generated)),
    }


def _references(
    some: np.ndarray | None, others: np.ndarray | FeatureStatistics, network: "FeatureNetwork", how: str
) -> dict[str, Reference]:
    """The same numbers of one set of real images against others, without intervals; none without the set."""
    if some is None:
        return {}
    if isinstance(others, FeatureStatistics):
        root = root_of_covariance(others.covariance)
        values = {network.distance: distance_of_roots(*root_of_features(some), others.mean, root)}
    elif network.distance.startswith("CMMD"):
        values = {network.distance: cmmd(some, others)}
    else:
        precision, recall = precision_recall(others, some)
        values = {
            f"KID{network.suffix}": kernel_distance(some, others, subsets=2).value,
            network.distance: distance_of_roots(*root_of_features(some), *root_of_features(others)),
            f"precision{network.suffix}": precision,
            f"recall{network.suffix}": recall,
        }
    return {name: Reference(value=value, how=f"{len(some)} {how}", n=len(some)) for name, value in values.items()}


def _check_sides(*sides: np.ndarray) -> None:
    for side in sides:
        if len(side) < 8:
            raise InputError(f"distances of {len(side)} images: give at least 8 on either side")
        check_widths(sides[0].shape[1], side.shape[1])


def _frechet(generated: np.ndarray, real: tuple[np.ndarray, np.ndarray], *, seed: int) -> Estimate:
    return estimate_from_halves(
        lambda features: distance_of_roots(*root_of_features(features), *real), generated, seed=seed
    )

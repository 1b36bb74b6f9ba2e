"""TensorBoard and Weights & Biases."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ifuvit.utils.errors import InputError


def check_installed(trackers: Sequence[str]) -> None:
    """accelerate would leave out a tracker that is not installed without a word.

    Raises:
        InputError: which one.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise InputError(f"--{name}: the package is not installed; pip install {name}")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with "outer/inner" names, which trackers show as groups; lists become strings, and
    estimates (see `ifuvit.metrics.intervals`) their values."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and "value" in value:
            flattened[prefix + key] = value["value"]
        elif isinstance(value, Mapping):
            flattened.update(flat(value, f"{prefix}{key}/"))
        else:
            flattened[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flattened

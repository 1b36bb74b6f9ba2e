"""The models that ship inside the package, and how a model is found by name or directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_object
from ifuvit.utils.hub import fetch_file, fetch_pipeline, is_hub_name

DEFAULT_MODEL = "openmoji-cross-intermediate"
DIRECTORY = Path(__file__).parent
"""Where they lie, with the stand-ins of evaluation and the autoencoder."""

PIPELINE_CLASS = ["pipeline", "IFUViTPipeline"]
"""What a model_index.json has under "_class_name", for diffusers: the file of the class, and the class."""


def is_own_index(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json is of a pipeline of this package."""
    return index.get("_class_name") in (PIPELINE_CLASS, PIPELINE_CLASS[1])


def is_on_hub(name: str | Path) -> bool:
    """Whether this is the name of a pipeline of this package on the hub (and not of a directory here).

    Raises:
        InputError: it has the form of a hub's name, and the hub does not answer.
    """
    return is_hub_name(name) and is_own_index(read_object(fetch_file(str(name), "model_index.json")))


def names() -> list[str]:
    """Names of the shipped text-to-image models."""
    return sorted(path.parent.name for path in DIRECTORY.glob("*/model_index.json"))


def find(name_or_directory: str | Path) -> Path:
    """The pipeline directory of a shipped name, a run directory, a pipeline directory or a name on the Hugging Face hub
    ("user/name", "user/name@revision"), which is downloaded once. A shipped name goes before a directory of that name (say
    `./NAME`), a directory before a name on the hub.

    Raises:
        InputError: none of them; the message lists the shipped names.
    """
    if str(name_or_directory) in names():
        return DIRECTORY / str(name_or_directory)
    directory = Path(name_or_directory)
    for candidate in (directory, directory / "pipeline"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if directory.is_dir():
        raise InputError(f"{directory}: holds no model (no model_index.json here or under pipeline/)")
    if is_hub_name(name_or_directory):
        if not is_on_hub(name_or_directory):
            raise InputError(
                f"{name_or_directory}: the hub's model is not a pipeline of ifuvit (its _class_name is another)"
            )
        return fetch_pipeline(str(name_or_directory))
    raise InputError(
        f"no model {str(name_or_directory)!r}: neither a directory, nor a name on the hub (user/name), nor one of the shipped "
        f"names ({', '.join(names()) or 'none'})"
    )

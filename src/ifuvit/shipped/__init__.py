"""The models that ship inside the package, and how a model is found by name or directory."""

from pathlib import Path

from ifuvit.utils.errors import InputError

DEFAULT_MODEL = "openmoji-cross-intermediate"
DIRECTORY = Path(__file__).parent
"""Where they lie, with the stand-ins of evaluation and the autoencoder."""


def names() -> list[str]:
    """Names of the shipped text-to-image models."""
    return sorted(path.parent.name for path in DIRECTORY.glob("*/model_index.json"))


def find(name_or_directory: str | Path) -> Path:
    """The pipeline directory of a shipped name, a run directory or a pipeline directory. A shipped name goes before a
    directory of that name (say `./NAME`).

    Raises:
        InputError: neither; the message lists the shipped names.
    """
    if str(name_or_directory) in names():
        return DIRECTORY / str(name_or_directory)
    directory = Path(name_or_directory)
    for candidate in (directory, directory / "pipeline"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if directory.is_dir():
        raise InputError(f"{directory}: holds no model (no model_index.json here or under pipeline/)")
    raise InputError(
        f"no model {str(name_or_directory)!r}: neither a directory nor one of the shipped names "
        f"({', '.join(names()) or 'none'})"
    )

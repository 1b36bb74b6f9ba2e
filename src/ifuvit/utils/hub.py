"""The Hugging Face hub, and frozen models of transformers: found in a folder or there, loaded whole and without chatter."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ifuvit.utils.errors import InputError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_name(name: str | Path) -> bool:
    """Whether this has the form of a name on the hub, "user/name" or "user/name@revision", and is no path of this machine:
    neither it nor the directory above it is there."""
    repository = str(name).partition("@")[0]
    return isinstance(name, str) and bool(_HUB_NAME.fullmatch(repository)) and not Path(repository).parent.is_dir()


def fetch_file(name: str, file: str) -> Path:
    """A file of a repository of the hub, downloaded once.

    Raises:
        InputError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    with _asking_hub(name):
        return Path(hf_hub_download(repository, file, revision=revision or None))


def fetch_pipeline(name: str) -> Path:
    """The directory of a pipeline of the hub, downloaded once: its weights, code and configuration, no images.

    Raises:
        InputError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _asking_hub(name):
        patterns = ["*.json", "*.py", "transformer/*", "scheduler/*", "vae/*"]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))


def upload(directory: Path, name: str, *, private: bool, token: str | None, endpoint: str | None, message: str) -> str:
    """Put a directory into a repository of the hub, which is made if need be. Returns the address of the commit.

    Raises:
        InputError: a name of another form, or a hub that does not answer or refuses.
    """
    from huggingface_hub import HfApi

    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"{name}: not a name of the hub; give user/name")
    api = HfApi(endpoint=endpoint, token=token)
    with _asking_hub(name, endpoint=api.endpoint, doing="cannot be uploaded to"):
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=directory, commit_message=message).commit_url)


@contextmanager
def _asking_hub(
    name: str, *, endpoint: str | None = None, doing: str = "no such directory, and it cannot be downloaded from"
) -> Iterator[None]:
    """A block that talks to the hub, whose faults become one line: classes of errors vary with versions."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            why = f"refused ({status}); log in with `hf auth login`, or set HF_TOKEN to a token that may do it"
        elif status == 404:
            why = "no such repository, revision or file there, or one that your token does not see"
        elif constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, and it is not on this machine; unset it where there is a network"
        else:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}; is the endpoint reachable from here?"
        raise InputError(f"{name}: {doing} {endpoint or constants.ENDPOINT}: {why}") from None
    finally:
        enable_progress_bars()


def find_folder(
    reference: str, *, what: str, advice: str, files: Sequence[str] = (), hub_id: str | None = None, fetch: bool = True
) -> Path:
    """The folder that holds a model's files.

    Args:
        reference: a folder or a hub id.
        what: what the model is, for errors: "text encoder".
        advice: what to give instead of something that is neither, for errors.
        files: names or patterns that are needed next to config.json and the safetensors.
        hub_id: what `reference` is called on the hub, if it is another name there.
        fetch: whether it may be downloaded; otherwise only what an earlier download left on this machine is taken.

    Raises:
        InputError: there is no such folder, it holds no model, or the hub does not give it.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{what} {folder}: the folder has no config.json, so it is not a transformers model")
        return folder
    hub_id = hub_id or reference
    if not _HUB_NAME.fullmatch(hub_id):
        raise InputError(f"{what} {reference}: no such folder; {advice}")
    from huggingface_hub import snapshot_download

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", *files]
    try:
        # "*/*": other formats of the same weights lie in subfolders.
        folder = Path(
            snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=not fetch)
        )
    except Exception as error:  # every fault of the network and of the hub, whose classes vary with versions
        # A set HF_HUB_OFFLINE, no network, an unknown id, a gated model: the way out is the same.
        why = (
            f"it could not be downloaded from the Hugging Face hub ({type(error).__name__})"
            if fetch
            else "it is not on this machine"
        )
        raise InputError(
            f"{what} {hub_id}: {why}; download it where there is a network (`hf download {hub_id} --local-dir FOLDER`) and "
            f"give the folder{'' if fetch else ', or give the id itself to have it downloaded'}"
        ) from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{what} {reference}: the hub's {hub_id} has no config.json, so it is not a model")
    return folder


def check_weights(folder: Path, *, what: str) -> None:
    """Refuse a folder without safetensors: transformers would make random weights, or unpickle others.

    Raises:
        InputError: it has none.
    """
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{what} {folder}: no *.safetensors in it; save the model with save_pretrained")


def load_model(class_name: str, folder: Path, *, what: str, config: Any = None) -> Any:
    """Load a class of transformers from a folder: all of its weights, in fp32, from safetensors alone.

    Args:
        what: what the model is, for errors.
        config: instead of the folder's own.

    Raises:
        InputError: no weights, files that are broken, or weights that are missing.
    """
    check_weights(folder, what=what)
    import transformers

    with loading(f"{what} {folder}"):
        # By name: transformers resolves its names at run time, where type checkers do not see them.
        model, report = getattr(transformers, class_name).from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    check_whole(report, what=f"{what} {folder}")
    return model.float()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """A block in which transformers loads something: without progress bars and news of weights that are not used, and
    with its errors on one line.

    Raises:
        InputError: for whatever goes wrong in the block.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # broken files give anything from ValueError to a Rust panic's own class
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{what}: cannot be loaded ({why})") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_whole(report: Mapping[str, Any], *, what: str, unused: tuple[str, ...] = ()) -> None:
    """Refuse a model some of whose weights the files lack, which transformers fills at random.

    Args:
        report: of `from_pretrained(..., output_loading_info=True)`.
        what: the model, for the error.
        unused: how the names of weights begin that may be missing.

    Raises:
        InputError: others are missing.
    """
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(unused)):
        raise InputError(f"{what}: the weights lack {missing[0]} and {len(missing) - 1} more")

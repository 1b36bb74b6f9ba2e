"""The command line: one subcommand a verb. A verb's module is imported only when that verb runs.

A verb lives in a module with `main(arguments: list[str]) -> None`, which parses its arguments with `parse` below and
calls the verb's `run(config)`.
"""

import contextlib
import errno
import importlib
import io
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from ifuvit.utils.files import is_full_disk, package_version
from ifuvit.utils.devices import keep_freed_memory
from ifuvit.utils.errors import InputError

VERBS = {
    "generate": ("ifuvit.commands.generate", "draw pictures from prompts"),
    "scenes": ("ifuvit.data.scenes.config", "draw OpenMoji Scenes, the embedded data set, in MS-COCO's layout"),
    "prepare": ("ifuvit.data.prepare", "encode captions and pictures into features for training"),
    "train": ("ifuvit.training.loop", "train a backbone on prepared features"),
    "train-autoencoder": ("ifuvit.standins.autoencoder", "train a small KL autoencoder on a folder of pictures"),
    "evaluate": ("ifuvit.evaluation.run", "judge a model or pictures: distances, alignment, counts and costs"),
    "sweep": ("ifuvit.evaluation.sweep", "evaluate models over guidance scales"),
    "experiment": ("ifuvit.experiments.run", "run or resume a whole experiment of the paper"),
    "report": ("ifuvit.commands.report", "put results into one page with tables and curves"),
    "reference-stats": ("ifuvit.evaluation.reference_stats", "make the real side's statistics for Fréchet distances"),
    "train-two-tower": ("ifuvit.standins.two_tower", "train the embedded model of text-image alignment"),
    "count": ("ifuvit.evaluation.count", "count objects in pictures of OpenMoji Scenes' kinds"),
    "costs": ("ifuvit.commands.costs", "print parameters and GFLOPs of any setting"),
    "bench": ("ifuvit.benchmarks.run", "time training, sampling, preparation and feature extraction"),
    "study": ("ifuvit.studies.run", "have people count objects in pictures, or rank several models' pictures"),
    "convert": ("ifuvit.commands.convert", "turn an official U-ViT checkpoint into a model directory"),
}

# Errors of the operating system that a path or a disk of the user's causes.
_USERS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)

T = TypeVar("T")


def parse(config: type[T], arguments: list[str], *, prog: str, default: T | None = None) -> T:
    """Parse `arguments` into the dataclass `config` (see tyro); its field docstrings are the help texts.

    Raises:
        InputError: arguments that do not parse, on one line.
    """
    import tyro

    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            options = (tyro.conf.FlagCreatePairsOff,)
            return tyro.cli(config, args=arguments, prog=prog, default=cast(T, default), config=options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_from_box(captured.getvalue())}; see `{prog} --help`") from None


def parse_action(
    actions: Mapping[str, type], arguments: list[str], *, verb: str, text: str, what: str = "action"
) -> Any:
    """Parse the arguments of a verb that has actions, the first of which names one.

    Args:
        actions: configuration classes by the actions' names.
        text: what `ifuvit VERB --help` prints.
        what: what the verb calls them.

    Returns:
        the action's configuration, or None if it was the verb's help that was asked for, which is printed.

    Raises:
        InputError: an unknown action, or as `parse`.
    """
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(text)
        return None
    if action not in actions:
        raise InputError(f"unknown {what} {action!r}; the {what}s are {', '.join(actions)}")
    return parse(actions[action], rest, prog=f"ifuvit {verb} {action}")


def _from_box(text: str) -> str:
    """The message in tyro's box: what stands between the title and the next rule. (Where the locale is no Unicode, the
    box is drawn in ASCII, with one more rule below the title.)"""
    lines = [line.strip("│╭╮╰╯ ") for line in text.splitlines()[1:]]
    parts = "\n".join(re.sub(r"^[─-]{10,}$", "\0", line) for line in lines).split("\0")
    message = next((" ".join(part.split()) for part in parts if part.strip()), "these arguments do not parse")
    return re.sub(r"^Error parsing \w+: ", "", message)  # the name of a class tells a user nothing


def usage() -> str:
    """The text of `ifuvit --help`."""
    lines = [
        "usage: ifuvit VERB [ARGUMENTS]",
        "",
        "Text-to-image diffusion with an intermediate fusion ViT.",
        "",
        "verbs:",
    ]
    lines += [f"  {verb:<18} {about}" for verb, (_, about) in VERBS.items()]
    return "\n".join(
        [*lines, "", "`ifuvit VERB --help` tells a verb's arguments. `ifuvit --version` tells the version."]
    )


def main() -> None:
    """Entry point of the `ifuvit` command: exit status 0, 2 for a mistake of the user, 1 for an internal fault."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
        return
    if verb == "--version":
        print(package_version())
        return
    try:
        if verb not in VERBS:
            raise InputError(f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}")
        keep_freed_memory()
        importlib.import_module(VERBS[verb][0]).main(arguments)
    except InputError as error:
        sys.exit(_fail(str(error)))
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno in _USERS:
            where = f"{error.filename}: " if error.filename else ""
            sys.exit(_fail(f"{where}{error.strerror}; what was written before is kept"))
        raise
    except Exception as error:
        if is_full_disk(error):
            sys.exit(_fail(f"{error}; what was written before is kept"))
        raise


def _fail(message: str) -> int:
    print(f"ifuvit: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

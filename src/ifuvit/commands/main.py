"""The command line: one subcommand a command. A command's module is imported only when that command runs.

A command lives in a module with `main(arguments: list[str]) -> None`, which parses its arguments with `parse` below and
calls the command's `run(config)`.
"""

import errno
import importlib
import sys

from ifuvit.utils.devices import keep_freed_memory
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import is_full_disk, package_version

COMMANDS = {
    "generate": ("ifuvit.commands.generate", "draw images from prompts"),
    "scenes": ("ifuvit.commands.scenes", "draw OpenMoji Scenes, the embedded data set, in MS-COCO's layout"),
    "prepare": ("ifuvit.commands.prepare", "encode captions and images into features for training"),
    "train": ("ifuvit.commands.train", "train a backbone on prepared features"),
    "evaluate": ("ifuvit.commands.evaluate", "judge a model or images: distances, alignment, counts and costs"),
    "sweep": ("ifuvit.commands.sweep", "evaluate models over guidance scales"),
    "experiment": ("ifuvit.commands.experiment", "run or resume a whole experiment of the paper"),
    "report": ("ifuvit.commands.report", "put results into one page with tables and curves"),
    "reference-stats": ("ifuvit.commands.reference_stats", "make the real side's statistics for Fréchet distances"),
    "count": ("ifuvit.commands.count", "count objects in images of OpenMoji Scenes' kinds"),
    "costs": ("ifuvit.commands.costs", "print parameters and GFLOPs of any setting"),
    "bench": ("ifuvit.commands.bench", "time training, sampling, preparation and feature extraction"),
    "study": ("ifuvit.commands.study", "have people count objects in images, or rank several models' images"),
    "make-standin": ("ifuvit.commands.make_standin", "train a small autoencoder, two-tower model or object counter"),
    "convert": ("ifuvit.commands.convert", "turn an official U-ViT checkpoint into a model directory"),
}

# Errors of the operating system that a path or a disk of the user's causes.
_USERS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def usage() -> str:
    """The text of `ifuvit --help`."""
    lines = [
        "usage: ifuvit COMMAND [ARGUMENTS]",
        "",
        "Text-to-image diffusion with an intermediate fusion ViT.",
        "",
        "commands:",
    ]
    lines += [f"  {command:<18} {about}" for command, (_, about) in COMMANDS.items()]
    return "\n".join(
        [*lines, "", "`ifuvit COMMAND --help` tells a command's arguments. `ifuvit --version` tells the version."]
    )


def main() -> None:
    """Entry point of the `ifuvit` command: exit status 0, 2 for a mistake of the user, 1 for an internal fault."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
        return
    if command == "--version":
        print(package_version())
        return
    try:
        if command not in COMMANDS:
            raise InputError(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}")
        keep_freed_memory()
        importlib.import_module(COMMANDS[command][0]).main(arguments)
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

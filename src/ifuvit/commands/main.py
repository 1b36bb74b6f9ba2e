"""The command line. A command is a module, imported only when that command runs: `CONFIG` is what it parses into, and
`main(arguments)` parses, calls, prints, and returns what `--json` prints in place of that."""

import importlib
import io
import os
import re
import signal
import sys
import threading
from typing import Any

from ifuvit.utils.command_line import COLORS, Output, check_word, completion
from ifuvit.utils.devices import keep_freed_memory
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import package_version

COMMANDS = {
    "use a model": {
        "generate": "generate images from prompts",
        "playground": "try models on a page in the browser",
    },
    "data": {
        "scenes": "draw OpenMoji Scenes, the embedded data set, in MS-COCO's layout",
        "prepare": "encode images and captions for training",
    },
    "train": {"train": "train a model, or resume its training"},
    "evaluate": {
        "evaluate": "measure distances to real images, text-image alignment, counts and costs",
        "analyze": "see why: attention maps, their rank, where text matters, what blocks know",
        "study": "have people count objects in images, or rank the images of several models",
        "report": "put results on one page with tables and plots",
    },
    "study the paper": {
        "experiment": "run or resume an experiment of the paper as a whole",
        "bench": "measure the speed of training, sampling and preparation",
        "costs": "print parameters and GFLOPs of any model",
    },
    "other": {
        "convert": "turn a U-ViT checkpoint into a pipeline directory",
        "export": "take a model elsewhere: diffusers, the hub, ONNX, torch.export, a web page",
        "make-standin": "train a small autoencoder, two-tower model or object counter",
    },
}
"""What each command does, by groups."""


def usage() -> str:
    """The text of `ifuvit --help`."""
    lines = ["usage: ifuvit COMMAND [OPTIONS]", "", "Text-to-image diffusion with an intermediate fusion ViT.", ""]
    for title, commands in COMMANDS.items():
        lines += [f"{title}:", *(f"  {name:<13} {about}" for name, about in commands.items()), ""]
    return "\n".join(
        [
            *lines,
            "`ifuvit help COMMAND` lists the options of a command, `ifuvit --version` prints the version.",
            "All commands take --json and --quiet, for scripts; docs/commands.md has the exit statuses too.",
            "",
            "example:",
            '  ifuvit generate "three sheep on grass"',
        ]
    )


def main() -> None:
    """Entry point of the `ifuvit` command: exit status 0, 2 for invalid input or a system that cannot, 1 for an internal
    fault."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    output, arguments = Output.split(sys.argv[1:])
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    command, *rest = arguments or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
        return
    if command == "--version":
        print(package_version())
        return
    names = [name for commands in COMMANDS.values() for name in commands]
    try:
        if command == "--tyro-print-completion":
            completion({name: _module(name).CONFIG for name in names}, arguments)
        check_word(command, names, what="command")
        keep_freed_memory()
        if not output.quiet and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            sys.meta_path.insert(0, _LoadingLine())
        with output.applied() as print_result:
            print_result(_module(command).main(rest))
    except InputError as error:
        sys.exit(_fail(str(error)))
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno is None:  # a library's own
            raise
        sys.exit(_fail(f"{_where(error)}{error.strerror}; what was written before is kept"))
    except Exception as error:
        if re.search(r"\(os error \d+\)", str(error)):  # safetensors' words for an error of the system
            sys.exit(_fail(f"{error}; what was written before is kept"))
        if _is_out_of_memory(error):
            sys.exit(_fail(f"out of memory ({str(error)[:200] or 'Python'}); give smaller sizes, such as --batch-size"))
        raise


def _where(error: OSError) -> str:
    """The file of a system's error, or its two files."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names)}: " if names else ""


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is torch's or Python's of too little memory."""
    words = ("can't allocate memory", "out of memory", "storage size calculation overflowed")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told or isinstance(error, MemoryError)


def _module(command: str) -> Any:
    return importlib.import_module(f"ifuvit.commands.{command.replace('-', '_')}")


class _LoadingLine:
    """Finds no module: says on the terminal when the first is imported that takes seconds."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            sys.meta_path.remove(self)
            print("loading PyTorch ...", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()  # names of files are not always text
    red, plain = ("\033[31m", "\033[0m") if COLORS and sys.stderr.isatty() else ("", "")
    print(f"{red}ifuvit:{plain} {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

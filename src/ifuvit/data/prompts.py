"""Prompts and captions in text files, one per line, and the names of the sets of counting prompts."""

import re
from pathlib import Path
from typing import Literal

from ifuvit.utils.errors import InputError

PromptSet = Literal[
    "paper",
    "all-kinds",
    "relations",
    "grounds",
    "held-out-counts",
    "held-out-relations",
    "paraphrases",
    "relation-paraphrases",
    "coco",
]
"""See `ifuvit.metrics.counting.prompts.PROMPT_SETS`."""


def read_lines(file: Path, *, option: str) -> list[str]:
    """The lines of a UTF-8 text file. Only \\n and \\r\\n end a line: captions may contain other separators of Unicode.

    Args:
        file: the file.
        option: the flag that named it, for errors.

    Raises:
        InputError: no such file, or not a UTF-8 text file.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{option} {file}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{option} {file}: is a directory; give a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"{option} {file}: not a UTF-8 text file") from None
    lines = re.split(r"\r?\n", text)
    return lines[:-1] if lines[-1] == "" else lines


def read_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one per line, with single spaces; empty lines are skipped.

    Raises:
        InputError: as `read_lines`, or no prompts at all.
    """
    prompts = [" ".join(line.split()) for line in read_lines(file, option="--prompts-file")]
    if not any(prompts):
        raise InputError(f"--prompts-file {file}: has no prompts; write one per line")
    return [prompt for prompt in prompts if prompt]

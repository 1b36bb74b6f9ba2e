"""Bad values of every option of every command: one line that names the option, and never a traceback.

The cases are made from what the commands say of their own options, so a new option is tried from its first day.
"""

import importlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ifuvit.commands.main import COMMANDS
from ifuvit.utils import command_line
from ifuvit.utils.command_line import Actions

NOWHERE = "/nowhere/at-all"

# What a command requires, if that is more than a model and --out. What it reads is missing, so that with a good value of another
# option it ends there.
REQUIRED = {
    "generate": ["a bus", f"--model={NOWHERE}"],
    "playground": [f"--model={NOWHERE}"],
    "scenes": ["--out=/dev/null/scenes"],
    "prepare coco": [f"--images={NOWHERE}", f"--captions={NOWHERE}", "--out=/dev/null/out"],
    "prepare folder": [NOWHERE, "--out=/dev/null/out"],
    "prepare dataset": [f"{NOWHERE}.tar", "--out=/dev/null/out"],
    "train": [f"--data={NOWHERE}", "--out=/dev/null/out"],
    "evaluate": [NOWHERE, f"--data={NOWHERE}", "--out=/dev/null/out.json"],
    "report": [NOWHERE, "--out=/dev/null/report.html"],
    "experiment": ["table1", "--out=/dev/null/out"],
    "export diffusers": [NOWHERE, "/dev/null/out", "--license=other"],
    "export hub": [NOWHERE, "user/name", "--license=other"],
    "export onnx": [NOWHERE, "/dev/null/out"],
    "export torch": [NOWHERE, "/dev/null/out"],
    "export page": [NOWHERE, "/dev/null/out"],
    "convert uvit": [NOWHERE, "/dev/null/out", "--heads=8"],
    "convert average": [NOWHERE, "/dev/null/out", "--width=0.1"],
    "make-standin autoencoder": [f"--images={NOWHERE}", "--out=/dev/null/out"],
    "make-standin two-tower": [f"--scenes={NOWHERE}", "--out=/dev/null/out"],
    "make-standin counter": [f"--scenes={NOWHERE}", "--out=/dev/null/out"],
}

# Commands that read nothing would begin to work with a good value; they are only parsed. Studies have tests of their own.
PARSED = ("costs", "bench")
PRESETS = ("openmoji-cross-intermediate",)

HUGE = "1" + "0" * 20
BAD = {
    "INT": ["1.5", "nan", "", HUGE],
    "FLOAT": ["nan", "-inf", "", "1,5"],
    "PATH": ["", " "],
    "TEXT": [""],
}
NEGATIVE = {"INT": "-1", "FLOAT": "-1.5"}

# Numbers that may be negative, and text that may be empty.
MAY_BE_NEGATIVE = {
    *("--guidance-scale", "--evaluate-guidance-scale", "--guidance-scales", "--logit-mean", "--guidance-interval"),
    "--text-layer",  # from the end
    "--adapter-scale",
}
MAY_BE_EMPTY = {"--negative-prompt", "--sample-prompts"}


class Option(NamedTuple):
    name: str
    kinds: tuple[str, ...]
    """Types of the values it takes one of each of; "FLAG" for none."""
    any_number: bool = False
    """Whether it takes any number of values, none too."""


def commands() -> Iterator[tuple[str, object, list[str]]]:
    """Every command with its action, what it parses into, and what it requires."""
    for name in (name for group in COMMANDS.values() for name in group):
        config = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}").CONFIG
        if not isinstance(config, Actions):
            if name not in PARSED:
                yield name, config, REQUIRED[name]
        elif name != "study" and name not in PARSED:
            for action, one in config.configs.items():
                if name != "train" or action in PRESETS:
                    key = "train" if name == "train" else f"{name} {action}"
                    yield f"{name} {action}", one, REQUIRED.get(key, [NOWHERE, "--out=/dev/null/out"])


def options_of(config: object) -> list[Option]:
    """From the help that tyro prints."""
    printed = command_line._tyro(config, ["--help"], "ifuvit")[1]
    found = re.findall(r"^  (--[a-z][\w.-]*)(?: (.*?))?(?:  |$)", printed, re.MULTILINE)
    options = []
    for name, metavar in found:
        if name == "--help" or name.startswith("--no-"):
            continue
        kinds = re.findall(r"[A-Z][\w.=|]*|[a-z][\w|.-]*", metavar.split("|INT INT")[0])
        options.append(Option(name, tuple(kinds) or ("FLAG",), metavar.startswith("[")))
    return options


def bad_values(option: Option) -> Iterator[tuple[list[str], bool]]:
    """Arguments, and whether they must be refused for the option's own sake."""
    name, kinds, any_number = option
    yield [f"{name}x"], True
    if kinds == ("FLAG",):
        yield [f"{name}=maybe"], False
        return
    kind = kinds[0]
    if not any_number:
        yield [name], True  # nothing follows
    for value in BAD.get(kind, []):
        if name not in MAY_BE_EMPTY:
            yield (
                [name, *[value] * len(kinds)] if value.strip() else [f"{name}={value}", *["1"] * (len(kinds) - 1)],
                True,
            )
    if kind in NEGATIVE:
        values = [name, *[NEGATIVE[kind]] * len(kinds)]
        yield values, name not in MAY_BE_NEGATIVE
        yield [name, *["0"] * len(kinds)], False
    if kind not in (*BAD, "DIR", "FILE", "FILE.npz", "NAME=PATH", "FOLDER|ID", "NAME", "SET=INT") and kind.islower():
        yield [name, "no-such-choice"], True


ALL = {name: (config, required) for name, config, required in commands()}


def test_the_table_is_of_all_commands() -> None:
    """And it finds their options."""
    assert {"generate", "scenes", "prepare coco", "evaluate", "experiment", "convert uvit"} <= set(ALL)
    assert all(
        len(options_of(config)) > 4
        for name, (config, _) in ALL.items()
        if name not in ("scenes", "report", "convert average") and "export" not in name
    )
    assert Option("--betas", ("FLOAT", "FLOAT")) in options_of(ALL["train openmoji-cross-intermediate"][0])


@pytest.mark.parametrize("name", ALL)
def test_bad_values(ifuvit, name: str) -> None:
    config, required = ALL[name]
    wrong = []
    options = options_of(config)
    step = 4 if len(options) > 50 else 1  # each case of `train` parses 80 options, twice; the kinds take turns
    for place, option in enumerate(options):
        base = [argument for argument in required if not argument.startswith(f"{option.name}=")]
        for arguments, must_be_named in list(bad_values(option))[place % step :: step]:
            line = ["ifuvit", *name.split(), *base, *arguments]
            try:
                status, out, err = ifuvit(*line[1:])
            except Exception as error:
                wrong.append(f"{line}: {type(error).__name__}: {error}")
                continue
            if status != 2 or out or not err.startswith("ifuvit: ") or err.count("\n") != 1:
                wrong.append(f"{line}: status {status}, {err[-300:]!r}")
            elif len(err) > 500:
                wrong.append(f"{line}: {len(err)} letters")
            elif must_be_named and option.name not in err and option.name[2:].replace("-", "_") not in err:
                wrong.append(f"{line}: does not name the option: {err!r}")
    assert not wrong, "\n".join(wrong[:40]) + f"\n{len(wrong)} in all"


@pytest.mark.parametrize("name", PARSED)
def test_bad_values_of_commands_that_read_nothing(name: str) -> None:
    from ifuvit.utils.errors import InputError

    config = importlib.import_module(f"ifuvit.commands.{name}").CONFIG
    configs = config.configs if isinstance(config, Actions) else {"": config}
    for action, one in configs.items():
        for option in options_of(one):
            for arguments, must_be_named in bad_values(option):
                if must_be_named:
                    with pytest.raises(InputError) as caught:
                        out = [] if name == "costs" or "--out" in arguments else ["--out=out"]
                        command_line.parse(config, [*action.split(), *out, *arguments], prog=f"ifuvit {name}")
                    said = str(caught.value)
                    assert option.name in said or option.name[2:].replace("-", "_") in said, (arguments, said)

"""Command lines into configurations, and the help that explains them.

The help of a configuration is what its source says: the class docstring, whose last paragraph is an example after the word
"Example:", and the docstrings under the fields. A field that holds another dataclass is a group of options of its own.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from ifuvit.utils.errors import InputError

COLORS = "NO_COLOR" not in os.environ
"""Whether a terminal may be written to in colors (no-color.org)."""
BAR_COLOR = "blue" if COLORS else None
"""Of tqdm's bars."""


@dataclass(frozen=True)
class Output:
    """How a command tells its result; the same options for every command."""

    json: bool
    """--json: standard output is one JSON object; text for people goes to standard error."""
    quiet: bool
    """--quiet: nothing but that object and the line of an error."""

    OPTIONS = (
        ("--json", "Print the result as one JSON object; text for people goes to standard error."),
        ("--quiet", "Print no progress, notes or result: --json's object and the line of an error only."),
    )

    @classmethod
    def split(cls, arguments: Sequence[str]) -> "tuple[Output, list[str]]":
        """These options, wherever they stand, and the other arguments."""
        names = [name for name, _ in cls.OPTIONS]
        rest = [argument for argument in arguments if argument not in names]
        return cls("--json" in arguments, "--quiet" in arguments), rest

    @contextlib.contextmanager
    def applied(self) -> Iterator[Callable[[Any], None]]:
        """In the block, text goes where it belongs. Yields what prints a command's result."""
        standard, results = sys.stdout, []
        with contextlib.ExitStack() as stack:
            if self.quiet:
                nothing = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stderr(nothing))
                stack.enter_context(contextlib.redirect_stdout(nothing))
            elif self.json:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield results.append
        for result in results:
            if self.json and os.environ.get("RANK", "0") == "0":
                print(json.dumps({} if result is None else result, indent=2, default=str), file=standard)


@dataclass(frozen=True, kw_only=True)
class Actions:
    """The configurations of a command by the word that must follow its name, as `coco` in `ifuvit prepare coco`."""

    word: str
    """What such a word is called: "action", "source"."""
    about: str
    """What the command does."""
    configs: Mapping[str, Any]
    """Dataclasses, or instances of one that have defaults of their own, by word."""
    texts: Mapping[str, str | None] = field(default_factory=dict)
    """What the help says in place of their docstrings, by word."""


@dataclass(frozen=True)
class Inline:
    """Annotates a field that holds a section: its options stand among those of the configuration that has the field, and
    begin with `prefix`. Where that configuration has an option of the same name, the section keeps its default."""

    prefix: str = ""


def parse(config: Any, arguments: Sequence[str], *, prog: str) -> Any:
    """Parse `arguments` into the dataclass `config`, an instance of one that has the defaults, or one of its `Actions`.

    Asked for help, it prints that and leaves with SystemExit, status 0. A configuration may have a method `without_effect`:
    options that have no effect with the others, as `ifuvit.utils.config.idle` returns them.

    Raises:
        InputError: arguments that do not parse, or an option that has no effect with the others, on one line.
    """
    if not isinstance(config, Actions):
        return _checked(_parse(config, arguments, prog, config.__doc__), arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help_of_actions(config, prog))
        raise SystemExit(0)
    word, *rest = arguments
    check_word(word, config.configs, what=config.word)
    chosen = config.configs[word]
    return _checked(_parse(chosen, rest, f"{prog} {word}", config.texts.get(word) or chosen.__doc__), rest)


def _checked(config: Any, arguments: Sequence[str]) -> Any:
    """The configuration, unless an option was given that has no effect with the others: whoever gives one means something by
    it, be it the default's value."""
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    for option, why in getattr(config, "without_effect", dict)().items():
        if option in given:
            raise InputError(f"{option}: has no effect {why}; leave it out")
    return config


def check_word(word: str, known: Iterable[str], *, what: str) -> None:
    """Refuse a word that is not among those known, and guess which one was meant.

    Raises:
        InputError: `word` is unknown; `what` says what it should have been.
    """
    if word not in known:
        guess = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
        hint = f"did you mean {guess[0]}?" if guess else f"the {what}s are {', '.join(known)}"
        raise InputError(f"unknown {what} {word!r}; {hint}")


def completion(commands: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """tyro's own options, of which `--tyro-print-completion SHELL` prints a completion script for all commands.

    Args:
        commands: what each command parses into.
    """
    import tyro

    def choice(configs: Mapping[str, Any]) -> Any:
        members = []
        for name, config in configs.items():
            cls, default = choice(config.configs) if isinstance(config, Actions) else config, tyro.MISSING_NONPROP
            if not isinstance(config, Actions) and _is_instance(config):
                cls, default = type(config), config
            members.append(Annotated[cls, tyro.conf.subcommand(name, default=default, prefix_name=False)])
        return Union[tuple(members)]  # noqa: UP007

    tyro.cli(choice(commands), prog="ifuvit", args=arguments, config=_options(), registry=_registry(all_kinds=True))


def _parse(config: Any, arguments: Sequence[str], prog: str, text: str | None) -> Any:
    value, printed = _tyro(config, arguments, prog)
    if value is not None:
        return value
    if printed.startswith("usage:"):
        print(_help(text or "", printed))
        raise SystemExit(0)
    options = dict(re.findall(r"^  (--[\w.-]+) (.*?)(?:  |$)", _tyro(config, ["--help"], prog)[1], re.MULTILINE))
    message = _message(printed, options)
    raise InputError(f"{message}{' See' if message.endswith('?') else '; see'} `{prog} --help`")


def _tyro(config: Any, arguments: Sequence[str], prog: str) -> tuple[Any, str]:
    """The configuration, or None and what tyro prints instead of one: its help or an error in a box."""
    import tyro

    cls, default = (type(config), config) if _is_instance(config) else (config, tyro.MISSING_NONPROP)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        value = tyro.cli(
            cls, args=arguments, prog=prog, default=default, description="", config=_options(), registry=_registry()
        )
        return value, ""
    return None, printed.getvalue()


def _is_instance(config: Any) -> bool:
    return dataclasses.is_dataclass(config) and not isinstance(config, type)


def _options() -> tuple[Any, ...]:
    from tyro.conf import FlagCreatePairsOff

    return (FlagCreatePairsOff,)


def _registry(*, all_kinds: bool = False) -> Any:
    """tyro's rules, with plain names of types, whole sentences, and only those defaults that say something.

    Args:
        all_kinds: a section that may be of several kinds has the options of all of them, not those of its default's kind.
    """
    from tyro.conf import arg
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
        StructConstructorSpec,
        StructFieldSpec,
        StructTypeInfo,
    )

    registry = ConstructorRegistry()
    inside = False
    kinds: dict[Any, list[Any]] = {}

    @registry.primitive_rule
    def plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        return _spec(info.type) if info.type in _READERS else None

    def described(spec: StructFieldSpec) -> StructFieldSpec:
        if all_kinds and typing.get_origin(spec.type) in (Union, types.UnionType):
            kinds[type(spec.default)] = [kind for kind in typing.get_args(spec.type) if dataclasses.is_dataclass(kind)]
        shown = arg(metavar=_metavar(spec.type, spec.name), help_behavior_hint=_default_hint)
        return replace(spec, type=Annotated[spec.type, shown], helptext=partial(_one_line, spec.helptext))

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inside
        if inside or not dataclasses.is_dataclass(info.type) or info.type.__module__.startswith("tyro."):
            return None
        inside = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)  # as it is without this rule
            others = [
                ConstructorRegistry.get_struct_spec(replace(info, type=kind, default=kind()))
                for kind in kinds.get(info.type, ())
                if kind is not info.type
            ]
        finally:
            inside = False
        if not isinstance(spec, StructConstructorSpec):
            return spec  # type: ignore[return-value]  # what it is about, tyro says
        spec = _inlined(spec)
        merged = {one.name: one for one in spec.fields}
        for one in (one for other in others for one in other.fields):  # type: ignore[union-attr]
            known = merged.setdefault(one.name, one)
            merged[one.name] = replace(known, type=_either(known.type, one.type))
        return replace(spec, fields=tuple(map(described, merged.values())))

    return registry


def _read_int(text: str) -> int:
    value = int(text)
    if not -_MOST < value < _MOST:
        raise ValueError
    return value


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _read_text(text: str) -> str:
    text.encode()  # a name in another encoding is no text
    return text


def _read_filled(text: str) -> str:
    if not text.strip():
        raise ValueError
    return _read_text(text)


def _read_path(text: str) -> Path:
    if not text.strip():  # it would be the working directory
        raise ValueError
    return Path(text)


_MOST = 2**63
"""Beyond what numpy and torch count with."""

_READERS: Mapping[Any, Callable[[str], Any]] = {int: _read_int, float: _read_float, str: _read_filled, Path: _read_path}


def _spec(kind: Any, read: Callable[[str], Any] | None = None) -> Any:
    """How tyro makes a value of one of these types from an argument."""
    from tyro.constructors import PrimitiveConstructorSpec

    def fits(value: Any) -> bool | Literal["~"]:
        if kind is float and type(value) is int:
            return "~"
        return type(value) is kind or kind is Path and isinstance(value, Path)

    def construct(arguments: list[str]) -> Any:
        try:
            return (read or _READERS[kind])(arguments[0])
        except ValueError:
            raise ValueError(f"'{arguments[0]}'") from None  # `_message` says why

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_NAMES[kind],
        instance_from_str=construct,
        is_instance=fits,
        str_from_instance=lambda value: [str(value)],
    )


def _inlined(spec: Any) -> Any:
    """A specification with the fields of its `Inline` sections in place of these."""
    from tyro.constructors import ConstructorRegistry, StructTypeInfo

    def prefix_of(field: Any) -> str | None:
        marks = [mark for mark in getattr(field.type, "__metadata__", ()) if isinstance(mark, Inline)]
        return marks[0].prefix if marks and _is_instance(field.default) else None

    sections = {
        field.name: (field.default, prefix) for field in spec.fields if (prefix := prefix_of(field)) is not None
    }
    own = [field for field in spec.fields if field.name not in sections]
    names: dict[str, dict[str, str]] = {}
    for section, (default, prefix) in sections.items():
        inner = ConstructorRegistry.get_struct_spec(StructTypeInfo.make(type(default), default, in_union_context=False))
        taken = {field.name for field in own}
        new = {prefix + field.name: field for field in inner.fields if prefix + field.name not in taken}  # type: ignore[union-attr]
        own += [replace(field, name=name) for name, field in new.items()]
        names[section] = {name: field.name for name, field in new.items()}

    def instantiate(**values: Any) -> Any:
        for section, (default, prefix) in sections.items():
            changes = {inner: values.pop(name) for name, inner in names[section].items()}
            try:
                values[section] = replace(default, **changes)
            except InputError as error:
                raise InputError(str(error).replace("--", f"--{prefix.replace('_', '-')}", 1)) from None
        return spec.instantiate(**values)

    return replace(spec, fields=tuple(own), instantiate=instantiate) if sections else spec


def _either(hint: Any, other: Any) -> Any:
    """Annotated `hint`, with the choices of `other` too where both are literals."""
    if typing.get_origin(hint) is not Annotated or hint == other:
        return hint
    (one, *metadata), (two, *_) = typing.get_args(hint), typing.get_args(other)
    return Annotated[(Literal[*typing.get_args(one), *typing.get_args(two)], *metadata)]


def _one_line(text: Any) -> str | None:
    text = text() if callable(text) else text
    return " ".join(text.split()) if text else None


def _default_hint(default: str) -> str:
    return "" if default in ("None", "False", "") else f"(default: {default})"


_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}

Prompt = Annotated[str, _spec(str, _read_text)]
"""Text of a command line that may be empty: the null caption."""


def _metavar(hint: Any, name: str) -> str | None:
    """What stands for a value in the help: the type's name, or the field's if it is positional; None for flags."""
    from tyro.conf import Positional

    shown = _type_name(hint)
    given = [item.metavar for item in getattr(hint, "__metadata__", ()) if getattr(item, "metavar", None)]
    if given:
        return f"[{given[0]} ...]" if shown.endswith("...]") and not given[0].startswith("[") else given[0]
    if typing.get_origin(hint) is Annotated and Positional in hint.__metadata__:
        if typing.get_origin(typing.get_args(hint)[0]) is Literal:
            return shown
        return f"[{name.upper()} ...]" if shown.endswith("...]") else name.upper()
    return shown or None


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        item = _type_name(arguments[0])
        return f"[{item} ...]" if arguments[-1] is Ellipsis else " ".join(map(_type_name, arguments))
    return _NAMES.get(hint, "")


def _help(text: str, printed: str) -> str:
    """tyro's help of a configuration, without rules, around what the docstring `text` says."""
    usage, _, options = printed.partition("\n\n")
    options = re.sub(r" *\n +-{9,} *$", "", options, flags=re.MULTILINE)
    options = re.sub(
        r"^ (?:[\w-]+\.)*(\w.*?) *$", r"\1:", options, flags=re.MULTILINE
    )  # titles, without outer sections
    about, _, example = inspect.cleandoc(text).partition("Example:")
    lines = [usage, "", _wrapped(about), "", *(line.rstrip() for line in options.strip().splitlines())]
    lines += ["", "output options:", *(f"  {name:<8} {meaning}" for name, meaning in Output.OPTIONS)]
    if example:
        lines += ["", "example:", textwrap.indent(inspect.cleandoc(example), "  ")]
    return "\n".join(lines)


def _help_of_actions(actions: Actions, prog: str) -> str:
    word = actions.word
    width = max(map(len, actions.configs))
    lines = [f"usage: {prog} {word.upper()} [OPTIONS]", "", _wrapped(actions.about), "", f"{word}s:"]
    for name, config in actions.configs.items():
        about = inspect.cleandoc(actions.texts.get(name) or config.__doc__ or "").partition("Example:")[0]
        first = re.match(r".*?[.:](?=\s|$)|.*", " ".join(about.split()))
        indent = " " * (width + 4)
        lines += textwrap.wrap(
            f"  {name:{width}}  {first[0].rstrip('.:') if first else ''}", _width(), subsequent_indent=indent
        )
    return "\n".join([*lines, "", f"`{prog} {word.upper()} --help` lists the options of one."])


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _width()) for part in text.strip().split("\n\n"))


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)


def _message(box: str, options: Mapping[str, str]) -> str:
    """What tyro's box of an error says, on one line that names the option.

    Args:
        options: the types of all options by their names.
    """
    # A title, then parts between rules.
    parts = re.split(r"^ +-{9,} *$", "\n".join(line.rstrip() for line in box.splitlines()), flags=re.MULTILINE)[1:]
    text = " ".join(parts[0].split()) if parts else "these arguments do not parse"
    for part in parts:
        title, _, tokens = " ".join(part.split()).partition(": ")
        if title == "Unrecognized options":
            words = re.split(",? ", tokens)
            token = next((word for word in words if word.startswith("-")), None)
            if token is None:
                return f"unexpected argument {words[0]!r}"
            guess = difflib.get_close_matches(token.partition("=")[0], options, n=1, cutoff=0.7)
            return f"unknown option {token}; did you mean {guess[0]}?" if guess else f"unknown option {token}"
    if text.startswith("Missing from"):
        *others, last = re.findall(r"^ {6}(\S+)", parts[0], re.MULTILINE)
        return f"{', '.join(others)} and {last} are required" if others else f"{last} is required"
    if found := re.match(r"Missing value for argument '(.*)'\.", text):
        return f"{found[1]} requires {options.get(found[1], 'a value')}"
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of (.*)", text):
        value, option, choices = found.groups()
        allowed = options.get(option) or "|".join(re.findall(r"'([^']+)'", choices))
    elif found := re.match(r"Error parsing (--\S+|\[?[A-Z_]+(?: \.\.\.\])?): ", text):
        option = found[1]
        listed = re.search(r"\['(.*?)'\]", text)
        value = listed[1].replace("', '", " ") if listed else text.rsplit(": ", 1)[-1].strip("'")
        allowed = options.get(option, "TEXT")
    else:
        return re.sub(r"^Error parsing [\w.]+: ", "", text)  # the name of a class tells a user nothing
    return f"{option} {_shown(value)}: must be {allowed.replace('|', ' or ')}{_because(value)}"


def _shown(value: str) -> str:
    """A value as an error shows it, on one line of text."""
    text = value.encode("utf-8", "backslashreplace").decode()
    return (text if len(text) <= 60 else f"{text[:57]}...") if text.strip() else repr(value)


def _because(value: str) -> str:
    """What is wrong with a value of the right form."""
    words = [word.lower().lstrip("+-") for word in value.split()]
    if {"nan", "inf", "infinity"} & set(words):
        return ", and finite"
    if any(word.isdecimal() and len(word) >= len(str(_MOST)) for word in words):
        return ", and smaller"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        return ", and of UTF-8"
    return "" if words else ", and not empty"

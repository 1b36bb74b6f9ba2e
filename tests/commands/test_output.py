"""--json and --quiet, which every command takes, and what a terminal and a log get."""

import importlib
import json
import sys
import typing

import pytest

from ifuvit.commands import main as cli
from ifuvit.utils import command_line
from ifuvit.utils.errors import InputError

NAMES = [name for commands in cli.COMMANDS.values() for name in commands]


@pytest.fixture
def tried(monkeypatch):
    """The command "try", which prints, warns, and returns a result."""
    import types

    def main(arguments):
        print("text", arguments)
        print("note", file=sys.stderr)
        if "bad" in arguments:
            raise InputError("bad input")
        return {"out": "a", "values": [1, 2.5]}

    module = types.ModuleType("try")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ifuvit.commands.try", module)
    monkeypatch.setitem(cli.COMMANDS, "for tests", {"try": "is tried"})


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_result_for_scripts(name):
    main = importlib.import_module(f"ifuvit.commands.{name.replace('-', '_')}").main
    assert typing.get_origin(typing.get_type_hints(main)["return"]) is dict


def test_text(ifuvit, tried):
    assert ifuvit("try", "x") == (0, "text ['x']\n", "note\n")


@pytest.mark.parametrize("words", [("--json", "try", "x"), ("try", "--json", "x"), ("try", "x", "--json")])
def test_json_is_all_of_standard_output(ifuvit, tried, words):
    ran = ifuvit(*words)
    assert ran.status == 0 and json.loads(ran.out) == {"out": "a", "values": [1, 2.5]}
    assert ran.err == "text ['x']\nnote\n"


def test_quiet(ifuvit, tried):
    assert ifuvit("try", "--quiet") == (0, "", "")
    ran = ifuvit("try", "--quiet", "--json")
    assert json.loads(ran.out)["out"] == "a" and ran.err == ""


@pytest.mark.parametrize("options", [(), ("--json",), ("--quiet",), ("--json", "--quiet")])
def test_an_error_is_one_line_whatever_the_options(ifuvit, tried, options):
    ran = ifuvit("try", "bad", *options)
    assert ran.status == 2 and ran.err.endswith("ifuvit: bad input\n")
    assert ran.out == ("" if options else "text ['bad']\n")
    assert ("note" in ran.err) == ("--quiet" not in options)


def test_help_lists_them(ifuvit):
    out = ifuvit("generate", "--help").out
    assert "--json" in out and "--quiet" in out and max(map(len, out.splitlines())) <= 100


def test_one_process_of_several_prints_the_result(ifuvit, tried, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ifuvit("try", "--json").out == ""


def test_an_error_is_red_on_a_terminal_alone(ifuvit, tried, monkeypatch):
    assert "\033" not in ifuvit("try", "bad").err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(cli._LoadingLine, "find_spec", lambda *_: None)
    assert ifuvit("try", "bad").err.startswith("note\n\033[31mifuvit:\033[0m bad input")
    monkeypatch.setattr(cli, "COLORS", False)
    assert "\033" not in ifuvit("try", "bad").err


def test_generate_for_a_script(ifuvit, model, tmp_path):
    ran = ifuvit("generate", "a b", "--model", model, "--steps", 2, "--out", tmp_path / "o", "--json", "--quiet")
    told = json.loads(ran.out)
    assert ran.err == "" and [one["prompt"] for one in told["images"]] == ["a b"]
    assert (tmp_path / "o" / "index.html").samefile(told["page"])


def test_options_stand_for_themselves():
    output, rest = command_line.Output.split(["generate", "--json", "--seed", "3", "--quiet"])
    assert (output.json, output.quiet, rest) == (True, True, ["generate", "--seed", "3"])

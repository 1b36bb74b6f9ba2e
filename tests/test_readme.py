"""What the README tells people to type works as it stands: the quick start runs, every other command parses."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from ifuvit.commands import main as cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if "ifuvit " in line and not line.startswith(("pip ", "make "))
] + [shlex.split(text) for text in re.findall(r"`(ifuvit [a-z-]+ [^`]*)`", README) if "COMMAND" not in text]


class Parsed(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_commands_parse(words, monkeypatch):
    parse = tyro.cli

    def parsed(*arguments, **options):
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parsed)
    monkeypatch.setattr(sys, "argv", words[words.index("ifuvit") :])
    with pytest.raises(Parsed):
        cli.main()


def test_quick_start_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = next(words for words in COMMANDS if words[1] == "generate")
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert (tmp_path / "images" / "index.html").is_file() and len(list((tmp_path / "images").glob("0*.png"))) == 2
    (python,) = [block for language, block in BLOCKS if language == "python"]
    exec(compile(python, "README.md", "exec"), {})
    assert (tmp_path / "sheep.png").is_file()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (Path(__file__).parents[1] / target).exists(), target

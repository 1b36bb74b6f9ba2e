"""What the README tells people to type works as it stands: its blocks run, and what takes hours or MS-COCO parses."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro
from PIL import Image

from ifuvit.commands import main as cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
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


LESS = {
    "scenes": ["--train", "24", "--val", "12"],
    "train": ["--steps", "2", "--batch-size", "4", "--validation-images", "1", "--sample-every", "0"],
    "generate": ["--steps", "2"],
    "analyze": ["--steps", "2"],
    "evaluate": ["--steps", "2", "--num-images", "8", "--count-prompts", "paper=1"],
}
"""Options that make the commands of the README quick; the others are as they stand there."""


@pytest.mark.slow
def test_training_and_evaluation_run(tmp_path, ifuvit, monkeypatch, capsys):
    """From scenes to the report; then a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-images").mkdir()
    for kind in ("bus", "cat"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "my-images" / f"{kind}.jpg")
        (tmp_path / "my-images" / f"{kind}.txt").write_text(f"a {kind}")
    left = [words[1:] for words in COMMANDS if words[0] == "ifuvit" and not {"convert", "experiment"} & set(words)]
    for command, *words in left:
        if "train2014" in words:
            continue
        if command == "report":
            words.remove("table1")
            (tmp_path / "results").mkdir()
            (tmp_path / "result.json").rename(tmp_path / "results" / "result.json")
        ran = ifuvit(command, *words, *LESS.get(command, []))
        assert ran.status == 0, (command, ran.err)
    assert (tmp_path / "report.html").is_file() and (tmp_path / "my-run" / "pipeline").is_dir()
    assert list((tmp_path / "generated").glob("*/index.html"))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (Path(__file__).parents[1] / target).exists(), target

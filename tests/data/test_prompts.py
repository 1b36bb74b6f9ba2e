"""Prompts in text files: what ends a line, and what is no such file."""

import pytest

from ifuvit.data.prompts import read_lines, read_prompts
from ifuvit.utils.errors import InputError


def test_only_line_feeds_end_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    text = "\ufeffa bus\r\n\n two\u2028sheep\x85and\x0ban apple \nlast\r one"
    file.write_bytes(text.encode())
    assert read_lines(file, option="--captions") == ["a bus", "", " two\u2028sheep\x85and\x0ban apple ", "last\r one"]
    assert read_prompts(file) == ["a bus", "two sheep and an apple", "last one"]


def test_the_last_line_may_end(tmp_path):
    for text, lines in (("a\nb", ["a", "b"]), ("a\nb\n", ["a", "b"]), ("a\n\n", ["a", ""]), ("", [])):
        (tmp_path / "p.txt").write_bytes(text.encode())
        assert read_lines(tmp_path / "p.txt", option="--captions") == lines


def test_mistakes(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for name, message in (
        ("missing.txt", "no such file"),
        ("empty.txt", "has no prompts"),
        ("binary.txt", "not a UTF-8 text file"),
        (".", "is a directory"),
    ):
        with pytest.raises(InputError, match=rf"--prompts-file .*: {message}"):
            read_prompts(tmp_path / name)

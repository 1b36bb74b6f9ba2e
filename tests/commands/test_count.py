"""`ifuvit count`: prompts to count by."""

import pytest

from ifuvit.commands import count as command
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.errors import InputError


def test_prompts_are_printed_as_generate_reads_them(tmp_path, capsys):
    from ifuvit.commands.generate import GenerateConfig, read_prompts

    command.main(["prompts", "paper"])
    (tmp_path / "prompts.txt").write_text(capsys.readouterr().out)
    assert tuple(read_prompts(GenerateConfig(prompts_file=tmp_path / "prompts.txt"))) == PROMPT_SETS["paper"]
    with pytest.raises(SystemExit):
        command.main(["prompts", "--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in PROMPT_SETS)


def refused(arguments):
    with pytest.raises(InputError) as caught:
        command.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_one_line():
    assert "'guess'" in refused(["guess"])
    assert "many" in refused(["prompts", "many"])

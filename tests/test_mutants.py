"""The list of tools/mutants.py follows the sources: every mutant can be applied."""

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.name}")
def test_the_text_to_change_is_there(mutant: mutants.Mutant) -> None:
    """Else adapt the mutant to what the line has become, or remove it with what it was about."""
    assert mutants.can_be_applied(mutant)

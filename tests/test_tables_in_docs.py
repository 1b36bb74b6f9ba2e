"""Tables in the documentation are those of the results."""

from pathlib import Path

import pytest
import tables_in_docs

from ifuvit.utils.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "<!-- table " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_up_to_date(page, monkeypatch):
    """Else run tools/tables_in_docs.py."""
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    assert tables_in_docs.with_tables(text) == text


def test_what_stands_at_a_place_is_replaced(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = "before\n<!-- table claims-table1-openmoji of results/table1-openmoji-cross -->\nstale\n<!-- end of table -->\nafter\n"
    found = tables_in_docs.with_tables(page)
    assert "stale" not in found and found.startswith("before\n<!-- table") and found.endswith("table -->\nafter\n")
    assert "| claim | verdict |" in found and "| undecided |" in found
    assert tables_in_docs.with_tables(found) == found
    with pytest.raises(InputError, match="has no table nothing; it has "):
        tables_in_docs.with_tables(page.replace("claims-table1-openmoji", "nothing"))

"""Figures in README, documentation and model cards are those of the files that the text names."""

import figures_in_docs
import pytest
from figures_in_docs import ROOT, Figure, figures, pages, problem

PAGES = [page for page in pages() if figures(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_their_files(page) -> None:
    """Else correct the figure, or name its file; tools/figures_in_docs.py says how."""
    assert [line for figure in figures(page) if (line := problem(figure))] == []


def test_all_kinds_of_pages_have_figures() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/results.md", "src/ifuvit/shipped/openmoji-cross-intermediate/README.md"} <= names


FILE = """{"metrics": [{"name": "KID-X", "value": 4.9358, "interval": [4.5169, 5.3548], "reference": {"value": -0.0071}}],
"counts": {"1": {"right": {"value": 0.725, "interval": [0.66, 0.785]}, "n": 1234}}}"""


def found(text: str, tmp_path, monkeypatch) -> list[tuple[Figure, str | None]]:
    monkeypatch.setattr(figures_in_docs, "ROOT", tmp_path)
    (tmp_path / "results" / "a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "results" / "a" / "b.json").write_text(FILE)
    page = tmp_path / "page.md"
    page.write_text(text)
    return [(figure, problem(figure)) for figure in figures(page)]


@pytest.mark.parametrize(
    "text",
    [
        "# A\n\nKID 4.94 [4.52, 5.35], see [b](results/a/b.json).\n",
        "# A\n\n[b](../results/a/b.json)\n\n| KID | 4.936 [4.517, 5.355] |\n",
        "72.5 [66.0, 78.5] % (`results/a/`)\n",
        "<!-- from results/a -->\nright 72.5 % [66.0, 78.5]\n",
        "results/a/b.json: -0.01<!-- = KID-X/reference --> and 1,234<!-- = 1/n --> and 4.94<!-- = metrics/KID-X -->\n",
        "results/a/b.json\n\n<!-- rows 1, -;\n     columns right, n -->\n\n| | share | n |\n|---|---|---|\n| one | 72.5 % | 1,234 |\n| two | 3 | 4 |\n",
        "Nobody kept it: 3.00 [2.00, 4.00] has no file.\n",
        "Twice 3.00 [2.00, 4.00] there is no\nfile, told in two lines.\n",
    ],
)
def test_figures_that_hold(text, tmp_path, monkeypatch) -> None:
    every = found(text, tmp_path, monkeypatch)
    assert every and [wrong for _, wrong in every if wrong] == []


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("KID 4.94 [4.52, 5.35]\n", 1, "names no file"),
        ("# A\n\nresults/a/b.json\n\n# B\n\n4.94 [4.52, 5.35]\n", 7, "names no file"),
        (
            "\nresults/a/b.json 4.94 [4.52, 5.36]\n",
            2,
            r"is not in results/a/b.json; nearest: 4.9358 [4.5169, 5.3548] at metrics",
        ),
        ("results/a/b.json 4.93 [4.52, 5.35]\n", 1, "is not in"),
        ("results/a/b.json 0.07<!-- = KID-X/reference -->\n", 1, "which has -0.0071 there"),
        ("results/a/b.json 0.07<!-- = KID-Y/reference -->\n", 1, "which has no such path"),
        ("results/a/c.json 4.94 [4.52, 5.35]\n", 1, "the text names results/a/c.json, which is not there"),
        (
            "results/a/b.json\n\n<!-- rows 1; columns right, n -->\n| | share | n |\n|---|---|---|\n| one | 72.5 | 1,235 |\n",
            6,
            "1, n: 1,235: is not in results/a/b.json, which has 1234.0 there",
        ),
        ("Elsewhere there is no file.\n\n3.00 [2.00, 4.00]\n", 3, "names no file"),
    ],
)
def test_figures_that_do_not(text, line, words, tmp_path, monkeypatch) -> None:
    ((figure, wrong),) = [(figure, wrong) for figure, wrong in found(text, tmp_path, monkeypatch) if wrong]
    assert figure.line == line and wrong.startswith(f"page.md:{line}: ") and words in wrong


def test_code_and_written_tables_are_not_read(tmp_path, monkeypatch) -> None:
    text = "`1.00 [0.50, 1.50]`\n\n```\n1.00 [0.50, 1.50]\n```\n\n    1.00 [0.50, 1.50]\n\n"
    assert (
        found(text + "<!-- table x of results/a -->\n1.00 [0.50, 1.50]\n<!-- end of table -->\n", tmp_path, monkeypatch)
        == []
    )

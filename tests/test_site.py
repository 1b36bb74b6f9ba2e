"""The documentation as a site: every page is in it, links to files of the repository lead somewhere, every extra is told."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from site_links import rewrite

from ifuvit.commands.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_every_page_is_in_the_navigation_and_in_the_index():
    navigation = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]))
    assert navigation == {page.name for page in PAGES}
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_out_of_the_documentation(page):
    text = rewrite(page.read_text(encoding="utf-8"), repository=None, where=page.name)
    assert "](../" not in text
    assert "[" not in rewrite("see [the\nmodel](../src/ifuvit/model/uvit.py#L3).", repository=None, where="x.md")


def test_links_with_a_repository():
    linked = rewrite("[m](../Makefile) [n](other.md)", repository="https://example.org/r/", where="x.md")
    assert linked == "[m](https://example.org/r/blob/main/Makefile) [n](other.md)"
    with pytest.raises(FileNotFoundError, match="docs/x.md: links to nowhere.py"):
        rewrite("[m](../nowhere.py)", repository=None, where="x.md")


def test_names_of_the_api_exist():
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute), name


def test_every_extra_is_in_the_table():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "installation.md").read_text(), re.M)
    assert sorted(told) == sorted(extras)


def test_commands_named_in_the_new_pages_exist():
    known = {name for commands in COMMANDS.values() for name in commands}
    for page in ("installation", "playground", "live-runs", "notebooks", "commands"):
        for name in re.findall(r"`ifuvit ([a-z][a-z-]+)", (ROOT / "docs" / f"{page}.md").read_text()):
            assert name in known | {"help"}, (page, name)


def test_the_settings_of_mkdocs_parse():
    class Loader(yaml.SafeLoader):
        """With mkdocs' own tag."""

    Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    assert settings["theme"]["font"] is False and settings["hooks"] == ["tools/site_links.py"]
    assert "site_links" in sys.modules

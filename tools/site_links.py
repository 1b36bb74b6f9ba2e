"""A hook of mkdocs: links from docs/ to files of the repository lead there on the site too, or are text where the site has no
repository (`repo_url` in mkdocs.yml). A link to a file that does not exist ends the build.
"""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")
ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return rewrite(markdown, repository=config["repo_url"] or None, where=page.file.src_uri)


def rewrite(markdown: str, *, repository: str | None, where: str) -> str:
    """The text with its links to files outside docs/ rewritten.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"docs/{where}: links to {path}, which does not exist")
        return text if repository is None else f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"

    return _LINK.sub(replaced, markdown)

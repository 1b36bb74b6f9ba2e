"""Write tables of the report into the documentation, so that no number there is copied by hand.

    python tools/tables_in_docs.py [--check] [FILE.md ...]

A place for a table is a pair of comments; what stands between them is replaced. The name is that of the table's file next to a
report (`ifuvit report results/table1 --out page.html` writes page-tables/NAME.md):

    <!-- table NAME of results/table1 -->
    <!-- end of table -->

Without files all of docs/ is done. --check writes nothing and fails if a table is not up to date.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from ifuvit.reporting.collection import collect
from ifuvit.reporting.page import all_tables
from ifuvit.reporting.tables import as_markdown
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_text

ROOT = Path(__file__).parents[1]
_PLACE = re.compile(r"(<!-- table (\S+) of (\S+) -->\n)(.*?)(<!-- end of table -->)", re.S)


def with_tables(text: str) -> str:
    """A page with the tables of now at all its places. Paths are relative to the working directory.

    Raises:
        InputError: no results there, or no such table.
    """

    def table(place: re.Match[str]) -> str:
        begin, name, directory, _, end = place.groups()
        tables = {one.name: one for one in all_tables(collect([Path(directory)]))}
        if name not in tables:
            raise InputError(f"{directory}: has no table {name}; it has {', '.join(tables)}")
        _, _, content = as_markdown(tables[name]).split("\n", 2)  # the page has its own headings
        return f"{begin}\n{content}\n{end}"

    return _PLACE.sub(table, text)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is not up to date")
    parser.add_argument("files", nargs="*", type=Path, help="pages; default: all of docs/")
    arguments = parser.parse_args()
    files = [file.resolve() for file in arguments.files] or sorted((ROOT / "docs").glob("*.md"))
    os.chdir(ROOT)
    stale = []
    for file in files:
        before = file.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            stale.append(file.name)
            if not arguments.check:
                write_text(file, after)
    print(
        f"{', '.join(stale)}: {'not up to date' if arguments.check else 'written'}" if stale else "all are up to date"
    )
    sys.exit(1 if arguments.check and stale else 0)


if __name__ == "__main__":
    main()

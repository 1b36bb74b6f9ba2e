"""The pages' style and the pages agree on names."""

import re
from importlib.resources import files


def test_every_class_that_the_style_names_is_on_a_page() -> None:
    static, templates = files("ifuvit.studies") / "static", files("ifuvit.studies") / "templates"
    style = re.sub(r"/\*.*?\*/|\{[^{}]*\}", " ", (static / "study.css").read_text(), flags=re.DOTALL)
    pages = [one.read_text() for one in (*templates.iterdir(), *static.iterdir()) if not one.name.endswith(".css")]
    used = set(re.findall(r"[\w-]+", " ".join(pages)))
    assert {
        name for name in re.findall(r"\.([a-z][\w-]*)", style) if name not in used and not name.startswith("of-")
    } == set()

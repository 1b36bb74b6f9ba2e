"""Both studies in a real browser: by keys, by mouse, by touch, interrupted, on a desk and on a phone, with a server and without.

With STUDY_SCREENSHOTS=DIR the pages are kept as images to look at.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[study]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

from tiny_study import make_study  # noqa: E402

from ifuvit.studies.answers import read_answers  # noqa: E402
from ifuvit.studies.config import StudyExportConfig, StudyImportConfig  # noqa: E402
from ifuvit.studies.design import Study, read_study  # noqa: E402
from ifuvit.studies.run import export, import_answers  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multiprocess,  # so that continuous integration runs it
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

DESK: dict[str, Any] = {"viewport": {"width": 1200, "height": 850}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, **settings: Any) -> Iterator[Any]:
    """A page on which nothing may go wrong."""
    context = browser.new_context(**settings)
    context.set_default_timeout(60_000)
    page, complaints = context.new_page(), []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []
    context.close()


@contextmanager
def server(directory: Path, port: int) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "ifuvit", "study", "serve", str(directory), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/static/study.css")
                    break
                except OSError:
                    time.sleep(0.1)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def look(page: Any, name: str) -> None:
    """No page is wider than its screen, and every image is there."""
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
    assert page.evaluate("[...document.images].filter((one) => one.checkVisibility() && !one.naturalWidth).length") == 0
    if place := os.environ.get("STUDY_SCREENSHOTS"):
        Path(place).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(place) / f"{name}.png", full_page=True)


def at_task(page: Any, number: int) -> None:
    playwright.expect(page).to_have_title(re.compile(f"Task {number + 1} of"), timeout=60_000)
    page.wait_for_load_state()


def answers_of(directory: Path, rater: int) -> dict[int, Any]:
    study = read_study(directory)
    return {one.task: one for one in read_answers(directory) if one.rater == study.raters[rater].id}


def test_counting(browser: Any, tmp_path: Path) -> None:
    """One by keys, who is interrupted by the server's death; one on a phone."""
    directory = make_study(tmp_path, "count", prompts=("two sheep", "four people"), images_per_prompt=1, size=64)
    study, port = read_study(directory), free_port()
    first, second = (f"http://127.0.0.1:{port}/r/{rater.token}/" for rater in study.raters)
    total = len(study.raters[0].tasks)
    with page_of(browser, **DESK) as page:
        with server(directory, port):
            page.goto(first)
            look(page, "count-start-desk")
            page.get_by_role("button", name="Agree and begin").click()
            at_task(page, 0)
            look(page, "count-desk")
            page.keyboard.press("3")
            at_task(page, 1)
            page.keyboard.press("z")
            assert page.locator("dialog.large img").is_visible()
            look(page, "count-enlarged-desk")
            page.keyboard.press("Escape")
            page.keyboard.press("c")
            at_task(page, 2)
            page.keyboard.press("b")
            at_task(page, 1)
            look(page, "count-again-desk")
            page.get_by_label("10 or more").fill("12")
            page.keyboard.press("Enter")
            at_task(page, 2)
        page_of_task_2 = page.url
        with server(directory, port):  # killed, and started again: the page that is open goes on
            page.keyboard.press("0")
            at_task(page, 3)
            page.goto(first)
            page.get_by_role("link", name="Continue").click()
            at_task(page, 3)
            page.go_back()
            page.goto(page_of_task_2)
            page.keyboard.press("n")
            for number in range(3, total):
                at_task(page, number)
                page.keyboard.press(str(number % 10))
            page.get_by_role("heading", name="Thank you").wait_for()
            look(page, "count-end-desk")
            page.goto(f"http://127.0.0.1:{port}/owner/{study.owner_token}/")
            look(page, "count-owner-desk")

            with page_of(browser, **PHONE) as phone:
                phone.goto(second)
                look(phone, "count-start-phone")
                phone.get_by_role("button", name="Agree and begin").tap()
                for number in range(total):
                    at_task(phone, number)
                    look(phone, "count-phone")
                    phone.get_by_role("button", name="2", exact=True).tap()
                phone.get_by_role("heading", name="Thank you").wait_for()
    given = answers_of(directory, 0)
    assert [given[number].count for number in range(total)] == [3, 12, 0, *(number % 10 for number in range(3, total))]
    assert [given[number].changes for number in range(3)] == [0, 1, 0]
    assert all(one.seconds is not None and 0 <= one.seconds < 600 for one in given.values())
    assert {one.count for one in answers_of(directory, 1).values()} == {2}


def rank_by_keys(page: Any) -> None:
    for key in "3142":
        page.keyboard.press(key)


def drag_by_touch(page: Any, held: Any, place: Any) -> None:
    """What a finger does that takes an image by its name."""
    place.scroll_into_view_if_needed()
    (x0, y0), (x1, y1) = (
        (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for box in (held.bounding_box(), place.bounding_box())
    )
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x0, "y": y0}]})
    for part in (0.3, 0.7, 1.0, 1.0):  # and rests: a tap right after a fling only ends the fling
        page.wait_for_timeout(150)
        point = {"x": x0 + part * (x1 - x0), "y": y0 + part * (y1 - y0)}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def test_ranking(browser: Any, tmp_path: Path) -> None:
    """One at a desk by keys and mouse, who leaves and comes back; one on a phone by taps."""
    directory = make_study(
        tmp_path, "preference", prompts=("a bus on grass", "two sheep"), images_per_prompt=2, size=64
    )
    study, port = read_study(directory), free_port()
    first, second = (f"http://127.0.0.1:{port}/r/{rater.token}/" for rater in study.raters)
    total = len(study.raters[0].tasks)
    assert total == 6
    with server(directory, port):
        with page_of(browser, **DESK) as page:
            page.goto(first)
            page.get_by_role("button", name="Agree and begin").click()
            at_task(page, 0)
            rank_by_keys(page)
            look(page, "preference-desk")
            page.keyboard.press("Enter")

            at_task(page, 1)  # dragged to places; the last one wins a place that was taken
            places = page.locator(".shelf li")
            for letter, place in (("A", 1), ("B", 0), ("C", 3), ("D", 2), ("A", 3)):
                page.get_by_role("group", name=f"Image {letter}").locator("img").drag_to(places.nth(place))
            assert page.locator(".shelf li span").all_text_contents() == ["B", "", "D", "A"]
            page.get_by_role("button", name="Save and continue").click()
            assert "Task 2 of" in page.title(), "one has no rank yet"
            page.get_by_role("group", name="Image C").locator("img").click()
            page.get_by_role("button", name="Save and continue").click()

            at_task(page, 2)  # without the control a rank belongs to one; with it, to two
            page.keyboard.press("1")
            page.get_by_role("group", name="Image B").get_by_label("rank 1").check(force=True)
            assert page.locator("input:checked").count() == 1
            page.keyboard.press("t")
            for letter, rank in (("A", 1), ("C", 2), ("D", 3)):
                page.get_by_role("group", name=f"Image {letter}").get_by_label(f"rank {rank}").check(force=True)
            assert page.locator(".shelf li span").all_text_contents() == ["A = B", "C", "D", ""]
            assert "All ranked" in page.get_by_role("status").text_content()
            look(page, "preference-ties-desk")
            page.keyboard.press("Enter")
            at_task(page, 3)
            page.keyboard.press("s")
            at_task(page, 4)
            page.keyboard.press("2")  # and away

        with page_of(browser, **PHONE) as phone:
            phone.goto(second)
            phone.get_by_role("button", name="Agree and begin").tap()
            for number in range(total):
                at_task(phone, number)
                for letter in "CADDB":  # D twice: its rank is taken away again, and goes to B
                    phone.get_by_role("group", name=f"Image {letter}").locator("img").tap()
                look(phone, "preference-phone")
                drag_by_touch(phone, phone.get_by_text("Image D", exact=True), phone.locator(".shelf li").nth(3))
                phone.get_by_role("button", name="Save and continue").tap()
            phone.get_by_role("heading", name="Thank you").wait_for()
            look(phone, "preference-end-phone")

        with page_of(browser, **DESK) as page:  # another day
            page.goto(first)
            page.get_by_role("link", name="Continue").click()
            at_task(page, 4)
            for number in (4, 5):
                at_task(page, number)
                rank_by_keys(page)
                page.keyboard.press("Enter")
            page.get_by_role("heading", name="Thank you").wait_for()
            page.goto(f"http://127.0.0.1:{port}/owner/{study.owner_token}/")
            look(page, "preference-owner-desk")
    given = answers_of(directory, 0)
    assert [given[number].ranks for number in range(total)] == [
        (3, 1, 4, 2), (4, 1, 2, 3), (1, 1, 3, 4), None, (3, 1, 4, 2), (3, 1, 4, 2),
    ]  # fmt: skip
    assert given[3].status == "skipped"
    assert {one.ranks for one in answers_of(directory, 1).values()} == {(2, 3, 1, 4)}


def test_without_javascript(browser: Any, tmp_path: Path) -> None:
    directory = make_study(tmp_path, "preference", prompts=("a bus", "two sheep"), images_per_prompt=1, checks=0)
    study, port = read_study(directory), free_port()
    with server(directory, port), page_of(browser, **DESK, java_script_enabled=False) as page:
        page.goto(f"http://127.0.0.1:{port}/r/{study.raters[0].token}/0")
        page.get_by_role("button", name="Agree and begin").click()
        for letter, rank in zip("ABCD", (2, 1, 4, 3)):
            page.get_by_role("group", name=f"Image {letter}").get_by_label(f"rank {rank}").check(force=True)
        page.get_by_role("button", name="Save and continue").click()
        page.wait_for_url("**/1")
    assert answers_of(directory, 0)[0].ranks == (2, 1, 4, 3)


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_what_a_screen_reader_is_told(browser: Any, tmp_path: Path, kind: str) -> None:
    """Everything that can be pressed has a name, images have one, and no two elements share an id."""
    directory = make_study(tmp_path, kind, prompts=("two sheep", "four people"), images_per_prompt=1)
    study, port = read_study(directory), free_port()
    with server(directory, port), page_of(browser, **DESK) as page:
        page.goto(f"http://127.0.0.1:{port}/r/{study.raters[0].token}/0")
        page.get_by_role("button", name="Agree and begin").click()
        tree = page.locator("body").aria_snapshot()
        assert not re.search(
            r"^\s*- (button|link|radio|checkbox|textbox|img|group|progressbar)\s*:?$", tree, re.MULTILINE
        ), tree
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("h1").count() == 1
        if kind == "preference":
            assert tree.count('group "Image') == 4 and tree.count('radio "rank') == 16
            page.keyboard.press("2")
            assert page.get_by_role("status").text_content() == "Image A: rank 2. 3 left to rank."
        # By the tabulator alone one gets to every control.
        wanted = page.locator("main button:visible, main input:visible, main a:visible").count()
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert len(reached) >= (wanted if kind == "count" else 4 + 4 + 3), "a group of radio buttons is one stop"


@pytest.mark.parametrize("kind", ["count", "preference"])
@pytest.mark.parametrize("format", ["json", "csv"])
def test_the_form_without_a_server(browser: Any, tmp_path: Path, kind: str, format: str) -> None:
    directory = make_study(tmp_path, kind, prompts=("two sheep", "four people"), images_per_prompt=1, size=64)
    study: Study = read_study(directory)
    export(StudyExportConfig(study=directory, format="forms", out=tmp_path / "forms"))
    total, kept = len(study.raters[0].tasks), tmp_path / f"answers.{format}"
    with page_of(browser, **PHONE) as page:
        page.goto((tmp_path / "forms" / "r01.html").as_uri())
        look(page, f"{kind}-form-start-phone")
        page.get_by_role("button", name="Agree and begin").tap()

        def answer(number: int, key: str) -> None:
            page.get_by_text(f"Task {number + 1} of {total}").wait_for()
            if kind == "count":
                page.keyboard.press(key)
            else:
                for press in ("1", "2", "3", "4", "Enter"):
                    page.keyboard.press(press)

        answer(0, "1")
        answer(1, "2")
        look(page, f"{kind}-form-phone")
        page.reload()  # interrupted
        page.get_by_role("button", name="Continue").tap()
        page.get_by_text(f"Task 3 of {total}").wait_for()
        page.keyboard.press("b")
        page.get_by_text(f"Task 2 of {total}").wait_for()
        if kind == "count":
            assert page.locator(".task:visible button.given").all_text_contents() == ["2"]
            page.keyboard.press("c")
        else:
            assert page.locator(".task:visible input:checked").count() == 4
            page.keyboard.press("s")
        for number in range(2, total):
            answer(number, "3")
        page.get_by_role("heading", name="Thank you").wait_for()
        look(page, f"{kind}-form-end-phone")
        with page.expect_download() as download:
            page.get_by_role("button", name=f"({format.upper()})").tap()
        download.value.save_as(kept)
    import_answers(StudyImportConfig(study=directory, files=(kept,)))
    given = answers_of(directory, 0)
    assert len(given) == total and given[1].changes == 1
    assert given[1].status == ("cannot tell" if kind == "count" else "skipped")
    if kind == "count":
        assert [given[number].count for number in range(total)] == [1, None, *[3] * (total - 2)]
    else:
        assert [given[number].ranks for number in range(total)] == [(1, 2, 3, 4), None, *[(1, 2, 3, 4)] * (total - 2)]
    assert json.dumps([one.seconds for one in given.values()])

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
import threading
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
from ifuvit.studies.connections import make_server  # noqa: E402
from ifuvit.studies.design import Study, read_study  # noqa: E402
from ifuvit.studies.run import export, import_answers  # noqa: E402
from ifuvit.studies.server import make_app  # noqa: E402

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


@contextmanager
def serving(directory: Path, **settings: Any) -> Iterator[str]:
    """The address of a server in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = make_server(make_app(directory, **settings))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield address
        finally:
            running.should_exit = True
            thread.join()


CONTRAST = """() => {
  const parts = (color) => { const found = color.match(/[\\d.]+/g).map(Number); return found.length > 3 ? found : [...found, 1]; };
  const luminance = (color) => color.slice(0, 3).map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parts(getComputedStyle(at).backgroundColor);
      if (color[3] === 1) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [255, 255, 255, 1];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.closest(".unseen") || ![...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim())) continue;
    const style = getComputedStyle(element);
    const [one, other] = [luminance(parts(style.color)), luminance(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5 || Number(style.opacity) < 1) low.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${contrast.toFixed(2)}`);
  }
  return low;
}"""


def look(page: Any, name: str) -> None:
    """No page is wider than its screen, every image is there, and every text has enough contrast, in light and dark."""
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
    assert page.evaluate("[...document.images].filter((one) => one.checkVisibility() && !one.naturalWidth).length") == 0
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) == [], (name, scheme)
    if place := os.environ.get("STUDY_SCREENSHOTS"):
        Path(place).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(place) / f"{name}.png", full_page=True)


def at_task(page: Any, number: int) -> None:
    playwright.expect(page).to_have_title(re.compile(f"Task {number + 1} of"), timeout=60_000)
    page.wait_for_load_state()
    ready(page)


def ready(page: Any) -> None:
    """Until the page takes answers."""
    page.locator(".task:visible").wait_for()
    page.wait_for_load_state()
    page.locator(".task:visible:not([data-waiting])").wait_for()


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
            assert page.locator(".shelf li span").all_text_contents() == ["B", "C", "D", "A"], "the last one follows"
            page.get_by_role("group", name="Image C").locator("img").click()
            page.get_by_role("button", name="Save and continue").click()
            assert "Task 2 of" in page.title(), "one has no rank any more"
            page.get_by_role("group", name="Image C").locator("img").click()
            page.get_by_role("button", name="Save and continue").click()

            at_task(page, 2)  # without the control a rank belongs to one; with it, to two
            page.keyboard.press("1")
            page.get_by_role("group", name="Image B").get_by_label("rank 1").check(force=True)
            assert page.locator(".slot input:checked").count() == 1
            page.keyboard.press("t")
            for letter, rank in (("A", 1), ("C", 2), ("D", 3)):
                page.get_by_role("group", name=f"Image {letter}").get_by_label(f"rank {rank}").check(force=True)
            assert page.locator(".shelf li span").all_text_contents() == ["A = B", "C", "D", ""]
            assert "All ranked" in page.locator(".task [role=status]").text_content()
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
                for letter in "CADDBB":  # B follows by itself; D and B lose their ranks again, and change them
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
        page.wait_for_url("**/1?after=0")
    assert answers_of(directory, 0)[0].ranks == (2, 1, 4, 3)


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_what_a_screen_reader_is_told(browser: Any, tmp_path: Path, kind: str) -> None:
    """Everything that can be pressed has a name, images have one, and no two elements share an id."""
    directory = make_study(tmp_path, kind, prompts=("two sheep", "four people"), images_per_prompt=1)
    study, port = read_study(directory), free_port()
    with server(directory, port), page_of(browser, **DESK) as page:
        page.goto(f"http://127.0.0.1:{port}/r/{study.raters[0].token}/0")
        page.get_by_role("button", name="Agree and begin").click()
        ready(page)
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
        wanted = page.locator("main :is(button, input, a):visible:not([tabindex='-1'])").count()
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
            ready(page)
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
        ready(page)
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


# ------------------------------------------------------------------------------------------------- one action, one answer


def begun(page: Any, address: str, study: Study, rater: int = 0, task: int | None = None) -> None:
    """At a rater's first task, or another one."""
    page.goto(f"{address}/r/{study.raters[rater].token}/")
    page.get_by_role("button", name="Agree and begin").click()
    if task is not None:
        page.goto(f"{address}/r/{study.raters[rater].token}/{task}")
    ready(page)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("counts"), "count", prompts=("two sheep", "four people"), images_per_prompt=1, size=64, raters=12, raters_per_item=12)  # fmt: skip


def test_a_second_click_key_or_tap_answers_nothing(browser: Any, counts: Path) -> None:
    study = read_study(counts)
    with serving(counts) as address:
        for rater, (how, gap) in enumerate(
            [("click", 80), ("click", 150), ("click", 250), ("click", 400), ("key", 200), ("tap", 150)]
        ):
            with page_of(browser, **(PHONE if how == "tap" else DESK)) as page:
                begun(page, address, study, rater)
                for first in (0, 1):
                    box = page.get_by_role("button", name="3", exact=True).bounding_box()
                    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
                    act = {
                        "click": lambda: page.mouse.click(x, y),  # noqa: B023
                        "tap": lambda: page.touchscreen.tap(x, y),  # noqa: B023
                        "key": lambda: page.keyboard.press("3"),  # noqa: B023
                    }[how]
                    act()
                    page.wait_for_timeout(gap)
                    act()
                    at_task(page, first + 1)
                    page.wait_for_timeout(200)
                    assert sorted(answers_of(counts, rater)) == list(range(first + 1)), (how, gap)


def test_images_that_come_late_or_not_at_all(browser: Any, counts: Path) -> None:
    study = read_study(counts)
    context = browser.new_context(**DESK)
    page = context.new_page()
    with serving(counts) as address:
        begun(page, address, study, 6)
        lost = True

        def image(route: Any) -> None:
            if lost:
                route.abort()
            else:
                time.sleep(1.5)
                route.continue_()

        page.route("**/images/*", image)
        page.goto(f"{address}/r/{study.raters[6].token}/3")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "did not load" in alert.text_content()
        for _ in range(3):
            page.keyboard.press("5")
            page.get_by_role("button", name="5", exact=True).click()
            page.get_by_label("10 or more").fill("12")
            page.keyboard.press("Enter")
            page.wait_for_timeout(300)
        assert answers_of(counts, 6) == {} and page.url.endswith("/3")
        lost, began = False, time.monotonic()
        page.get_by_role("button", name="Try again").click()
        page.keyboard.press("5")  # not there yet
        ready(page)
        assert not alert.is_visible() and answers_of(counts, 6) == {}
        page.keyboard.press("Escape")
        page.locator("h1").click()
        page.wait_for_timeout(400)
        page.get_by_role("button", name="5", exact=True).click()
        page.wait_for_url("**/4?after=3")
        (answer,) = answers_of(counts, 6).values()
        waited = time.monotonic() - began
        assert 0.8 < answer.seconds < waited - 1.4, "the clock started when the image was there"
    context.close()


def test_the_next_images_are_fetched_ahead(browser: Any, counts: Path) -> None:
    study = read_study(counts)
    rater = study.raters[7]
    with serving(counts) as address, page_of(browser, **DESK) as page:
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        begun(page, address, study, 7)
        page.wait_for_load_state("networkidle")
        names = [study.images(task)[0] for task in rater.tasks]
        assert any(url.endswith(names[1]) for url in fetched) and not any(url.endswith(names[2]) for url in fetched)


def test_undoing_the_last_answer(browser: Any, counts: Path) -> None:
    study = read_study(counts)
    with serving(counts) as address, page_of(browser, **DESK) as page:
        begun(page, address, study, 8)
        page.keyboard.press("4")
        at_task(page, 1)
        assert page.get_by_role("status").text_content() == "Saved: 4."
        look(page, "undo-desk")
        page.get_by_role("button", name="Undo").click()
        at_task(page, 0)
        assert answers_of(counts, 8) == {} and page.locator("button.given").count() == 0
        page.keyboard.press("6")
        at_task(page, 1)
        page.keyboard.press("u")
        at_task(page, 0)
        page.keyboard.press("7")
        at_task(page, 1)
        page.keyboard.press("b")
        at_task(page, 0)
        assert page.locator("button.given").text_content() == "7"
    assert answers_of(counts, 8)[0].count == 7


# ------------------------------------------------------------------------------------------------------ faster answers


def test_choices_and_ratings(browser: Any, tmp_path: Path) -> None:
    """Of two images one action saves; ratings by keys and by clicks; comments, in which letters are letters."""
    small = {"prompts": ("a bus on grass", "two sheep"), "images_per_prompt": 2, "size": 64}
    chosen = make_study(tmp_path / "two", "preference", models=("alpha", "beta"), practice=1, comments=True, **small)
    study = read_study(chosen)
    with serving(chosen) as address, page_of(browser, **DESK) as page:
        page.goto(f"{address}/r/{study.raters[0].token}/")
        look(page, "choice-start-desk")
        page.get_by_role("button", name="Agree and begin").click()
        ready(page)
        assert page.title() == "Practice 1 of 1" and "does not count" in page.locator(".practice").text_content()
        look(page, "choice-practice-desk")
        page.keyboard.press("ArrowRight")
        at_task(page, 0)
        assert page.get_by_role("status").text_content() == "Saved: Image B."
        page.get_by_label("Comment").fill("the bus is cut, so scb")
        look(page, "choice-desk")
        page.get_by_role("button", name="Image A", exact=False).and_(page.locator("button")).click()
        at_task(page, 1)
        page.keyboard.press("ArrowDown")
        at_task(page, 2)
        page.keyboard.press("s")
        at_task(page, 3)
    given = answers_of(chosen, 0)
    assert [given[number].ranks for number in range(4)] == [(2, 1), (1, 2), (1, 1), None]
    assert given[1].comment == "the bus is cut, so scb" and given[0].purpose == "practice"
    with serving(chosen) as address, page_of(browser, **PHONE) as page:
        begun(page, address, study, 1)
        look(page, "choice-phone")

    rated = make_study(tmp_path, "rating", **small)
    study = read_study(rated)
    with serving(rated) as address, page_of(browser, **DESK) as page:
        begun(page, address, study)
        page.keyboard.press("4")
        page.keyboard.press("2")
        look(page, "rating-desk")
        page.keyboard.press("Enter")
        at_task(page, 1)
        page.get_by_role("button", name="Save and continue").click()
        assert "Task 2 of" in page.title(), "questions are open"
        for question, rating in (("How well", "1 not at all"), ("How good", "5 very good")):
            page.get_by_role("group", name=question).get_by_label(rating).check(force=True)
        page.get_by_role("button", name="Save and continue").click()
        at_task(page, 2)
        with page_of(browser, **PHONE) as phone:
            begun(phone, address, study, 1)
            look(phone, "rating-phone")
    assert [answers_of(rated, 0)[number].ratings for number in (0, 1)] == [(4, 2), (1, 5)]


@pytest.mark.parametrize("kind", ["choice", "rating"])
def test_forms_of_choices_and_ratings(browser: Any, tmp_path: Path, kind: str) -> None:
    small = {"prompts": ("a bus", "two sheep"), "images_per_prompt": 1, "size": 64, "comments": True, "language": "de"}
    if kind == "choice":
        directory = make_study(tmp_path, "preference", models=("alpha", "beta"), **small)
    else:
        directory = make_study(tmp_path, "rating", **small)
    study = read_study(directory)
    export(StudyExportConfig(study=directory, format="forms", out=tmp_path / "forms"))
    with page_of(browser, **DESK) as page:
        page.goto((tmp_path / "forms" / "r01.html").as_uri())
        page.get_by_role("button", name="Zustimmen und beginnen").click()
        ready(page)

        def answer() -> None:
            for key in ["ArrowLeft"] if kind == "choice" else ["3", "5", "Enter"]:
                page.keyboard.press(key)

        page.locator("textarea:visible").fill('so, "scharf"')
        page.locator("h1:visible").click()
        answer()
        page.get_by_text("Gespeichert: Bild A." if kind == "choice" else "Gespeichert: 3, 5.").wait_for()
        look(page, f"{kind}-form-desk")
        page.get_by_role("button", name="Rückgängig").click()
        ready(page)
        for _ in study.raters[0].tasks:
            answer()
            page.wait_for_timeout(100)
            if page.get_by_role("heading", name="Vielen Dank").count() == 0 or page.locator(".task:visible").count():
                ready(page)
        page.get_by_role("heading", name="Vielen Dank").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="(CSV)").click()
        download.value.save_as(tmp_path / "answers.csv")
    import_answers(StudyImportConfig(study=directory, files=(tmp_path / "answers.csv",)))
    given = answers_of(directory, 0)
    assert len(given) == len(study.raters[0].tasks) and given[0].changes == 2
    assert {one.ranks if kind == "choice" else one.ratings for one in given.values()} == {
        (1, 2) if kind == "choice" else (3, 5)
    }


# --------------------------------------------------------------------------------------------------------- for everyone


def test_keys_of_other_keyboards_and_of_nobody(browser: Any, counts: Path) -> None:
    study = read_study(counts)
    with serving(counts) as address, page_of(browser, **DESK) as page:
        begun(page, address, study, 9)
        french = {"key": "&", "code": "Digit1", "windowsVirtualKeyCode": 49, "text": "&"}
        session = page.context.new_cdp_session(page)
        session.send("Input.dispatchKeyEvent", {"type": "keyDown", **french})
        session.send("Input.dispatchKeyEvent", {"type": "keyUp", **french})
        at_task(page, 1)
        page.get_by_text("Keys and gestures").click()
        page.get_by_label("Keys answer").uncheck()
        page.locator("h1").click()
        for key in ("5", "c", "z", "b", "u"):
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        assert not page.locator("dialog.large").is_visible() and "Task 2 of" in page.title()
        page.reload()
        ready(page)
        page.keyboard.press("5")
        page.wait_for_timeout(300)
        assert list(answers_of(counts, 9)) == [0], "it stays switched off"
    assert answers_of(counts, 9)[0].count == 1


def test_forced_colors_show_what_was_chosen(browser: Any, counts: Path, tmp_path: Path) -> None:
    ranked = make_study(tmp_path, "preference", prompts=("two sheep", "a bus"), images_per_prompt=1, size=64)
    colors = "(one) => getComputedStyle(one).backgroundColor"
    with serving(counts) as address, page_of(browser, **DESK, forced_colors="active") as page:
        begun(page, address, read_study(counts), 10)
        page.keyboard.press("3")
        at_task(page, 1)
        page.keyboard.press("b")
        at_task(page, 0)
        given, other = (page.get_by_role("button", name=name, exact=True).evaluate(colors) for name in "34")
        assert given != other
    with serving(ranked) as address, page_of(browser, **DESK, forced_colors="active") as page:
        begun(page, address, read_study(ranked))
        page.keyboard.press("2")
        labels = page.locator(".slot").first.locator(".ranks label > span")
        assert labels.nth(1).evaluate(colors) != labels.nth(0).evaluate(colors)
        if place := os.environ.get("STUDY_SCREENSHOTS"):
            page.screenshot(path=Path(place) / "preference-forced-colors.png", full_page=True)


OVERLAP = """() => {
  const boxes = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect());
  return boxes(".shelf, header, .buttons").some((bar) => boxes(".images img").some((image) =>
    bar.left < image.right && image.left < bar.right && bar.top < image.bottom - 1 && image.top + 1 < bar.bottom));
}"""


def test_small_screens(browser: Any, tmp_path: Path) -> None:
    """At 200 % zoom and on a phone held sideways nothing covers an image; on a phone images fill the screen, and no key is named."""
    ranked = make_study(
        tmp_path,
        "preference",
        prompts=("two sheep", "a bus"),
        images_per_prompt=1,
        size=64,
        raters=4,
        raters_per_item=4,
    )
    study = read_study(ranked)
    sizes = {
        "zoom200": {"viewport": {"width": 600, "height": 425}},
        "landscape": {**PHONE, "viewport": {"width": 844, "height": 390}},
    }
    with serving(ranked) as address:
        for rater, (name, size) in enumerate(sizes.items()):
            with page_of(browser, **size) as page:
                begun(page, address, study, rater)
                look(page, f"preference-{name}")
                assert name == "zoom200" or page.locator("kbd:visible").count() == 0, "on a touch screen of any width"
                height = page.evaluate("document.documentElement.scrollHeight")
                for top in range(0, height, 150):
                    page.evaluate(f"scrollTo(0, {top})")
                    assert not page.evaluate(OVERLAP), (name, top)
        with page_of(browser, **PHONE) as page:
            begun(page, address, study, 2)
            page.get_by_text("Keys and gestures").tap()
            assert page.locator("kbd:visible, .by-key:visible").count() == 0
            page.get_by_role("link", name="Enlarge Image B").tap()
            dialog = page.locator("dialog.large")
            box = dialog.bounding_box()
            assert (box["width"], box["height"]) == (390, 844), "the whole screen"
            image, frame = dialog.locator("img"), dialog.locator(".frame")
            assert image.bounding_box()["width"] >= 380 and image.get_attribute("alt") == "Image B"
            look(page, "zoom-phone")
            image.tap()
            assert image.bounding_box()["width"] >= 760
            left = frame.evaluate("(one) => one.scrollLeft")
            frame.evaluate("(one) => one.scrollBy(60, 40)")
            assert frame.evaluate("(one) => one.scrollLeft") == left + 60, "it pans"
            dialog.get_by_role("button", name="Next image").tap()
            assert image.get_attribute("alt") == "Image C" and image.bounding_box()["width"] < 400
            dialog.get_by_role("button", name="Larger").tap()
            dialog.get_by_role("button", name="Smaller").tap()
            assert image.bounding_box()["width"] < 400
            dialog.get_by_role("button", name="Close").tap()
            assert not dialog.is_visible() and page.locator(".slot input:checked").count() == 0


def test_without_javascript_a_mistake_keeps_what_was_chosen(browser: Any, tmp_path: Path) -> None:
    ranked = make_study(tmp_path, "preference", prompts=("two sheep", "a bus"), images_per_prompt=1, size=64)
    context = browser.new_context(**DESK, java_script_enabled=False)
    page = context.new_page()
    with serving(ranked) as address:
        page.goto(f"{address}/r/{read_study(ranked).raters[0].token}/")
        page.get_by_role("button", name="Agree and begin").click()
        for letter, rank in zip("ABCD", (1, 1, 3, 4)):
            page.get_by_role("group", name=f"Image {letter}").get_by_label(f"rank {rank}").check(force=True)
        page.get_by_role("button", name="Save and continue").click()
        assert "the same rank" in page.get_by_role("alert").first.text_content()
        assert page.locator("input[type=radio]:checked").count() == 4
        page.get_by_label("Ties").check()
        page.get_by_role("button", name="Save and continue").click()
        page.wait_for_url("**/1?after=0")
    context.close()
    assert answers_of(ranked, 0)[0].ranks == (1, 1, 3, 4)


def test_a_phone_held_sideways_shows_the_image_and_all_numbers(browser: Any, counts: Path) -> None:
    with serving(counts) as address, page_of(browser, **{**PHONE, "viewport": {"width": 844, "height": 390}}) as page:
        begun(page, address, read_study(counts), 11)
        image = page.locator(".images img").bounding_box()
        boxes = [page.get_by_role("button", name=str(number), exact=True).bounding_box() for number in range(10)]
        assert image["y"] + image["height"] <= 390 and image["width"] == image["height"] >= 192
        assert all(box["x"] > image["x"] + image["width"] and box["y"] + box["height"] <= 390 for box in boxes)
        look(page, "count-landscape")


# ------------------------------------------------------------------------------------------------------ recruited raters


def test_recruited_raters_come_and_are_taken_back(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the platform's link to the last answer, which can be undone, and back to the platform, also without JavaScript."""
    from ifuvit.studies import server

    monkeypatch.setattr(server, "RETURN_SECONDS", 3)
    directory = make_study(tmp_path, "count", prompts=("two sheep",), images_per_prompt=1, repeats=0, size=64)
    study = read_study(directory)
    total = len(study.raters[0].tasks)
    back = "http://platform.test/complete?cc=C0DE&x=a%20b"
    with serving(directory, completion_code="C0DE", completion_url=back) as address:
        join = f"{address}/join/{study.join_token}?PROLIFIC_PID="

        def come(page: Any, who: str) -> None:
            page.route("http://platform.test/**", lambda route: route.fulfill(body="<title>platform</title>"))
            page.goto(join + who)
            page.get_by_role("button", name="Agree and begin").click()

        with page_of(browser, **DESK) as page:
            come(page, "ann")
            for number in range(total):
                at_task(page, number)
                page.keyboard.press("3")
            page.get_by_role("heading", name="Thank you").wait_for()
            assert "taken back in 3 seconds" in page.locator("main").text_content()
            look(page, "recruited-end-desk")
            page.keyboard.press("u")
            at_task(page, total - 1)
            page.keyboard.press("4")
            page.wait_for_url(back)
            assert answers_of(directory, 0)[total - 1].count == 4
            page.goto(join + "ann")
            page.get_by_role("heading", name="Thank you").wait_for()
            page.wait_for_timeout(4000)
            assert page.url.endswith("/end"), "who comes back stays"
            page.get_by_role("link", name="Return").click()
            page.wait_for_url(back)
        context = browser.new_context(**PHONE, java_script_enabled=False)
        page = context.new_page()
        come(page, "bob")
        for number in range(total):
            page.wait_for_url(f"**/{number}*")
            page.get_by_role("button", name="2", exact=True).tap()
        page.wait_for_url("**/end?after=*")
        page.get_by_role("link", name="Stay here").tap()
        page.wait_for_timeout(4000)
        assert page.url.endswith("/end") and "C0DE" in page.locator("main").text_content()
        page.get_by_role("link", name="Look at my answers again").tap()
        page.get_by_role("button", name="5", exact=True).tap()
        page.wait_for_url(back)
        context.close()
        with page_of(browser, **DESK) as page:
            page.goto(join + "carl")
            page.get_by_text("All places are taken").wait_for()
            page.goto(f"{address}/owner/{study.owner_token}/")
            assert page.locator("tbody td").filter(has_text=re.compile("^(ann|bob)$")).count() == 2


# ------------------------------------------------------------------------------------------------------------ the owner


def test_the_owner_copies_links_names_raters_and_is_asked(browser: Any, tmp_path: Path) -> None:
    small = {"prompts": ("two sheep", "four people"), "images_per_prompt": 1, "size": 64}
    counts = make_study(tmp_path, "count", raters=3, raters_per_item=3, **small)
    study = read_study(counts)
    with serving(counts) as address, page_of(browser, **DESK) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{address}/owner/{study.owner_token}/")
        page.get_by_role("button", name="Copy the link of r02").click()
        page.get_by_text("Copied", exact=True).wait_for()
        link = page.evaluate("navigator.clipboard.readText()")
        assert link == f"{address}/r/{study.raters[1].token}/"
        page.get_by_label("Name of r02").fill("Bärbel")
        page.keyboard.press("Enter")
        page.wait_for_url("**/#r02")
        assert page.get_by_label("Name of r02").input_value() == "Bärbel"
        page.evaluate(
            "() => { Object.defineProperty(navigator, 'clipboard', { value: undefined }); }"
        )  # a page of a LAN
        page.get_by_role("button", name="Copy the link of r03").click()
        page.get_by_text("Copied", exact=True).wait_for()
        look(page, "owner-desk")
        with page.expect_download() as download:
            page.get_by_role("link", name="All links as CSV").click()
        assert f"r02,Bärbel,,{len(study.raters[1].tasks)}" in Path(download.value.path()).read_text()
        page.get_by_role("link", name="Close the study").click()
        look(page, "owner-close-desk")
        page.get_by_role("link", name="Leave it open").click()
        assert "Open." in page.locator("main").text_content()
        page.get_by_role("link", name="Close the study").click()
        page.get_by_role("button", name="Close the study").click()
        page.get_by_text("Closed: no more answers are taken.").wait_for()
        page.goto(link)
        assert (
            page.get_by_role("heading", name="The study is closed").is_visible() and page.locator("form").count() == 0
        )
        look(page, "closed-desk")
        page.goto(f"{address}/owner/{study.owner_token}/")
        page.get_by_role("button", name="Take answers again").click()
        page.goto(link)
        page.get_by_role("button", name="Agree and begin").wait_for()
    with serving(counts) as address, page_of(browser, **PHONE) as page:
        page.goto(f"{address}/owner/{study.owner_token}/")
        look(page, "owner-phone")

"""The server: what it shows, what it takes, what it refuses."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[study]'")

import httpx  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from tiny_study import MODELS, make_study  # noqa: E402

from ifuvit.studies import answers, connections  # noqa: E402
from ifuvit.studies.config import (  # noqa: E402
    StudyAddRatersConfig,
    StudyExportConfig,
    StudyServeConfig,
    StudyWithdrawConfig,
)
from ifuvit.studies.design import Rater, Study, read_study  # noqa: E402
from ifuvit.studies.run import add, export, serve, withdraw  # noqa: E402
from ifuvit.studies.server import make_app  # noqa: E402
from ifuvit.studies.store import Store  # noqa: E402
from ifuvit.utils.errors import InputError  # noqa: E402


class Served:
    """A study, whose raters have agreed to take part, and a browser without JavaScript."""

    def __init__(self, directory: Path, *, agreed: bool = True) -> None:
        self.directory = directory
        self.study: Study = read_study(directory)
        self.app = make_app(directory)
        self.client = TestClient(self.app, follow_redirects=False)
        self.rater: Rater = self.study.raters[0]
        for rater in self.study.raters if agreed else ():
            self.store.agree(rater.id, "2026-01-01T00:00:00+00:00")

    def link(self, place: object = "", rater: Any = 0) -> str:
        return f"/r/{self.study.raters[rater].token}/{place}"

    def right(self, **changes) -> dict[str, str]:
        """A form as the page posts it."""
        if self.study.kind == "count":
            fields = {"version": "0", "seconds": "1.25", "count": "3"}
        else:
            fields = {"version": "0", "seconds": "", "status": "answered", **{f"rank{n}": str(4 - n) for n in range(4)}}
        fields |= changes
        return {key: value for key, value in fields.items() if value is not None}

    def post(self, task: object = 0, rater: Any = 0, **changes) -> Any:
        return self.client.post(self.link(task, rater), data=self.right(**changes))

    @property
    def store(self) -> Store:
        return self.app.state.site.store

    def kept(self) -> list:
        return self.store.entries()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies of every kind; "choice" is a preference between two, of which the rater may write comments."""
    directory = tmp_path_factory.mktemp("made")
    for kind in ("count", "preference", "rating"):
        make_study(directory, kind)
    choice = make_study(directory / "two", "preference", models=MODELS[:2], practice=2, comments=True, language="de")
    choice.rename(directory / "choice")
    return directory


@pytest.fixture(params=["count", "preference"])
def served(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Served:
    return Served(shutil.copytree(made / request.param, tmp_path / request.param))


@pytest.fixture
def counts(made: Path, tmp_path: Path) -> Served:
    return Served(shutil.copytree(made / "count", tmp_path / "counts"))


@pytest.fixture
def preferences(made: Path, tmp_path: Path) -> Served:
    return Served(shutil.copytree(made / "preference", tmp_path / "preferences"))


# ------------------------------------------------------------------------------------------------------------ the way


def test_from_the_link_to_the_end(served: Served) -> None:
    there, total = served.link(0), len(served.rater.tasks)
    for number in range(total):
        page = served.client.get(there)
        assert f"Task {number + 1} of {total}" in page.text and f'value="{number}" max="{total}"' in page.text
        answer = served.client.post(there, data=served.right())
        assert answer.status_code == 303
        there = answer.headers["location"]
    assert there == served.link(f"end?after={total - 1}")
    assert "Thank you" in served.client.get(there).text
    assert served.client.get(served.link()).headers["location"] == served.link("end")
    assert len(served.kept()) == total


def test_nobody_answers_who_has_not_agreed(made: Path, tmp_path: Path) -> None:
    served = Served(shutil.copytree(made / "count", tmp_path / "count"), agreed=False)
    start = served.client.get(served.link())
    assert start.status_code == 200 and "Taking part is voluntary" in start.text
    for place in (0, 1):
        assert served.client.get(served.link(place)).headers["location"] == served.link()
        assert served.post(place).status_code == 403
    assert served.kept() == [] and served.store.agreed("r01") is None
    button = re.search(r'<form method="post" action="([^"]+)">.*Agree and begin', start.text, re.DOTALL)
    assert button is not None
    assert served.client.post(button[1]).headers["location"] == served.link(0)
    moment = served.store.agreed("r01")
    assert moment is not None and served.store.agreed("r02") is None
    assert served.post(0).status_code == 303
    assert "Agree" not in served.client.get(served.link()).text, "once is enough"
    assert served.client.post(button[1]).headers["location"] == served.link(1) and served.store.agreed("r01") == moment
    owner = served.client.get(f"/owner/{served.study.owner_token}/").text
    assert owner.count(moment[:16].replace("T", " ")) >= 1


def test_leaving_and_coming_back(served: Served) -> None:
    served.post(0)
    served.post(2)
    for client in (served.client, TestClient(make_app(served.directory), follow_redirects=False)):  # or another server
        page = client.get(served.link())
        assert "Continue" in page.text and served.link(1) in page.text
    assert served.post(1).headers["location"] == served.link("3?after=1"), "what has an answer is passed over"
    last = len(served.rater.tasks) - 1
    assert served.post(last).headers["location"] == served.link(f"3?after={last}"), "what was left out comes again"
    assert "Not quite finished" in served.client.get(served.link("end")).text


def test_back_and_change(counts: Served) -> None:
    counts.post(0, count="3")
    page = counts.client.get(counts.link(0)).text
    assert "You may change it" in page and 'name="version" value="1"' in page
    assert re.search(r'value="3" formnovalidate class="given" aria-pressed="true"', page)
    assert counts.post(0, count="12", version="1").status_code == 303
    assert 'value="12"' in counts.client.get(counts.link(0)).text
    assert [one.count for one in counts.kept()] == [3, 12]
    (answer,) = answers.read_answers(counts.directory)
    assert (answer.count, answer.changes, answer.seconds) == (12, 1, 1.25)


def test_a_ranking_is_shown_again(preferences: Served) -> None:
    preferences.post(0, rank0="2", rank1="1", rank2="1", rank3="4", ties="1")
    assert preferences.kept()[0].ranks == (3.0, 1.0, 1.0, 4.0)
    page = preferences.client.get(preferences.link(0)).text
    checked = re.findall(r'name="(rank\d)" value="(\d)" required checked', page)
    assert checked == [("rank0", "3"), ("rank1", "1"), ("rank2", "1"), ("rank3", "4")]
    assert 'name="ties" value="1" checked' in page


def test_other_answers(counts: Served, preferences: Served) -> None:
    assert counts.post(0, count=None, status="cannot tell").status_code == 303
    skipped = {"version": "0", "seconds": "3", "status": "skipped", "rank0": "1"}  # one was ranked already
    assert preferences.client.post(preferences.link(0), data=skipped).status_code == 303
    assert [one.status for one in (*counts.kept(), *preferences.kept())] == ["cannot tell", "skipped"]
    assert preferences.kept()[0].ranks is None


def test_a_choice_between_two_is_one_action(made: Path, tmp_path: Path) -> None:
    served = Served(shutil.copytree(made / "choice", tmp_path / "choice"))
    page = served.client.get(served.link(0)).text
    assert set(re.findall(r'name="choice" value="(\w+)"', page)) == {"A", "B", "equal"} and 'type="radio"' not in page
    for task, (choice, ranks) in enumerate({"A": (1, 2), "B": (2, 1), "equal": (1, 1)}.items()):
        fields = {"version": "0", "choice": choice, "comment": " a  comment\n" if choice == "B" else ""}
        assert served.client.post(served.link(task), data=fields).status_code == 303
        assert served.kept()[task].ranks == ranks
    assert [one.comment for one in served.kept()] == [None, "a comment", None]
    for bad in ({"choice": "C"}, {}, {"rank0": "1", "rank1": "2"}, {"choice": "A", "comment": "x" * 2001}):
        assert served.client.post(served.link(3), data={"version": "0", **bad}).status_code == 422, bad
    assert 'value="B" class="given" aria-pressed="true"' in served.client.get(served.link(1)).text


def test_ratings(made: Path, tmp_path: Path) -> None:
    served = Served(shutil.copytree(made / "rating", tmp_path / "rating"))
    page = served.client.get(served.link(0)).text
    assert "How well does the image match the description?" in page and page.count('type="radio"') == 10
    bad = [
        {"rating0": "4"},
        {"rating0": "4", "rating1": "6"},
        {"rating0": "0", "rating1": "5"},
        {"rating0": "4", "rating1": "x"},
    ]
    for fields in bad:
        answer = served.client.post(served.link(0), data={"version": "0", **fields})
        assert answer.status_code == 422 and "Not taken" in answer.text
    kept = re.findall(
        r'name="(rating\d)" value="(\d)" required checked',
        served.client.post(served.link(0), data={"version": "0", **bad[0]}).text,
    )
    assert kept == [("rating0", "4")], "what was given is still there"
    assert served.client.post(served.link(0), data={"version": "0", "rating0": "4", "rating1": "1"}).status_code == 303
    assert served.kept()[0].ratings == (4, 1)
    assert (
        served.client.post(served.link(1), data={"version": "0", "status": "skipped", "rating0": "4"}).status_code
        == 303
    )
    assert served.kept()[1].ratings is None
    assert "Saved: 4, 1." in served.client.get(served.link("1?after=0")).text


def test_the_last_answer_is_undone_from_the_next_page(served: Served) -> None:
    there = served.post(0).headers["location"]
    assert there == served.link("1?after=0")
    page = served.client.get(there).text
    assert ("Saved: 3." if served.study.kind == "count" else "Saved.") in page
    form = re.search(
        r'<form method="post" action="([^"]+/undo)" class="saved">\s*<input type="hidden" name="version" value="(\d+)">',
        page,
    )
    assert form is not None and form[2] == "1"
    assert served.client.post(form[1], data={"version": "0"}).status_code == 409, "from an old page"
    assert served.client.post(form[1], data={"version": "x"}).status_code == 422
    assert served.client.post(form[1], data={"version": form[2]}).headers["location"] == served.link(0)
    assert served.store.answered("r01") == set() and answers.read_answers(served.directory) == []
    again = served.client.get(served.link(0)).text
    assert 'name="version" value="2"' in again and "You may change it" not in again
    assert (
        "Undo" not in served.client.get(served.link("1?after=0")).text
        and served.client.get(served.link("1?after=x")).status_code == 200
    )
    assert served.post(0, version="2").status_code == 303
    (answer,) = answers.read_answers(served.directory)
    assert answer.changes == 2 and [one.status for one in served.kept()] == ["answered", "undone", "answered"]


def test_practice_comes_first_and_is_told(made: Path, tmp_path: Path) -> None:
    served = Served(shutil.copytree(made / "choice", tmp_path / "choice"))
    assert [task.purpose == "practice" for task in served.rater.tasks].index(False) == 2
    pages = [served.client.get(served.link(number)).text for number in range(3)]
    assert ["Zur Übung" in page for page in pages] == [True, True, False]
    assert (
        "<title>Übung 2 von 2</title>" in pages[1]
        and f"<title>Aufgabe 1 von {len(served.rater.tasks) - 2}</title>" in pages[2]
    )


def test_pages_speak_the_studys_language(made: Path, tmp_path: Path) -> None:
    served = Served(shutil.copytree(made / "choice", tmp_path / "choice"), agreed=False)
    start = served.client.get(served.link()).text
    assert (
        '<html lang="de">' in start
        and "Zustimmen und beginnen" in start
        and "etwa 2 min. Am Anfang 2 zur Übung" in start
    )
    served.store.agree("r01", "2026-01-01T00:00:00+00:00")
    for page in (start, served.client.get(served.link(0)).text, served.client.get("/nowhere").text):
        words = set(re.findall(r"[A-Za-z]+", re.sub(r"<[^>]*>", " ", page.partition("<body")[2].partition(">")[2])))
        assert not words & {"the", "and", "image", "images", "you", "Save", "Skip", "Back", "Sorry", "page"}, words


def test_before_the_first_task_it_says_what_is_asked(made: Path, tmp_path: Path) -> None:
    for kind, words in (
        ("count", "how many of the named objects"),
        ("preference", "switch ties on"),
        ("rating", "scale from 1 to 5"),
    ):
        served = Served(shutil.copytree(made / kind, tmp_path / kind), agreed=False)
        start = served.client.get(served.link()).text
        assert words in start and re.search(rf"{len(served.rater.tasks)} tasks, one a page: about \d+ min", start)


# ------------------------------------------------------------------------------------------------------------ blinding


def test_pages_tell_nothing_of_models(served: Served) -> None:
    for number, task in enumerate(served.rater.tasks):
        page = served.client.get(served.link(number)).text
        item = served.study.item(task.item)
        telling = [*MODELS, task.item, "repeat", "check", served.study.owner_token]
        if served.study.kind == "count":
            telling += [item.prompt]
        assert not [word for word in telling if re.search(rf"(?<!aria-)\b{re.escape(word)}\b(?!box|ed)", page)]
        shown = re.findall(r"images/([0-9a-f]{32}\.png)\" alt", page)
        assert tuple(shown) == served.study.images(task), "in the order that was drawn and recorded"
        for name in shown:
            image = served.client.get(served.link(f"images/{name}"))
            assert image.status_code == 200 and image.headers["content-type"] == "image/png"
            assert not {"last-modified", "etag"} & set(image.headers)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "bad",
    [
        {"count": "-3"}, {"count": "1000000000"}, {"count": "three"}, {"count": ""}, {"count": None}, {"count": "3.5"}, {"count": "٣"},
        {"count": "100"}, {"count": "1e1"}, {"count": "3\x00"}, {"status": "cannot tell"}, {"count": None, "status": "skipped"},
        {"count": None, "status": "x" * 500}, {"seconds": "-1"}, {"seconds": "nan"}, {"seconds": "inf"}, {"seconds": "soon"},
        {"version": None}, {"version": "-1"}, {"version": "x"}, {"rank0": "1"}, {"model": "0"}, {"item": "i0001-0"},
    ],
)  # fmt: skip
def test_counts_that_are_refused(counts: Served, bad: dict) -> None:
    answer = counts.post(0, **bad)
    assert answer.status_code == 422 and "Not taken" in answer.text
    assert counts.kept() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"rank0": "1", "rank1": "1"}, {"rank0": "1", "rank1": "1", "ties": "0"}, {"rank2": None}, {"rank2": ""}, {"rank2": "0"}, {"rank2": "5"},
        {"rank2": "-1"}, {"rank2": "best"}, {"rank4": "1"}, {"status": "cannot tell"}, {"status": ""}, {"count": "3"}, {"version": "1000000000"},
    ],
)  # fmt: skip
def test_rankings_that_are_refused(preferences: Served, bad: dict) -> None:
    answer = preferences.post(0, **bad)
    assert answer.status_code == 422
    assert preferences.kept() == []


def test_a_field_given_twice(counts: Served) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = counts.client.post(counts.link(0), content="version=0&count=3&count=4", headers=headers)
    assert answer.status_code == 422 and counts.kept() == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"version": 0, "count": 3}', "application/json", 415),
        (b"--x\r\n", "multipart/form-data; boundary=x", 415),
        (b"version=0&count=3", "", 415),
        (b"version=0&count=\xff", "application/x-www-form-urlencoded", 400),
        (b"version=0&count=%FF", "application/x-www-form-urlencoded", 400),
        (b"no fields", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % n for n in range(100)), "application/x-www-form-urlencoded", 400),
        (b"version=0&count=" + b"3" * 30_000, "application/x-www-form-urlencoded", 413),
    ],
)
def test_what_is_no_form(counts: Served, content: bytes, kind: str, status: int) -> None:
    answer = counts.client.post(counts.link(0), content=content, headers={"content-type": kind})
    assert answer.status_code == status and counts.kept() == []


def test_an_answer_sent_again(served: Served) -> None:
    assert served.post(0).status_code == 303
    for version in ("0", "2"):
        answer = served.post(0, version=version)
        assert answer.status_code == 409 and "Nothing was changed" in answer.text
    assert len(served.kept()) == 1


def test_a_closed_study(served: Served) -> None:
    owner = f"/owner/{served.study.owner_token}/"
    assert served.client.post(f"{owner}close").headers["location"] == owner
    answer = served.post(0)
    assert answer.status_code == 403 and "The study is closed" in answer.text and "Continue" not in answer.text
    for place in ("", "0", "end"):
        page = served.client.get(served.link(place)).text
        assert "The study is closed" in page and "<form" not in page, "it says so before the work"
    assert served.kept() == [] and "Closed" in served.client.get(owner).text
    served.client.post(f"{owner}open")
    assert served.post(0).status_code == 303


@pytest.mark.parametrize("task", ["1000", "-1", "x", "1.0", "00000000001", "٣", "99999999999999999999"])
def test_tasks_that_there_are_not(served: Served, task: str) -> None:
    assert served.client.get(served.link(task)).status_code == 404
    assert served.post(task).status_code == 404
    assert served.kept() == []


def test_links_that_are_not_known(served: Served) -> None:
    token = served.rater.token
    for wrong in (token[:-1], token + "x", token.swapcase(), "r01", "é", served.study.owner_token):
        for place in ("", "0", "end"):
            assert served.client.get(f"/r/{wrong}/{place}").status_code == 404
        assert served.client.post(f"/r/{wrong}/0", data=served.right()).status_code == 404
    for place in (f"/owner/{token}/", f"/owner/{token}/export/csv", "/owner/", "/", "/docs", "/openapi.json", "/r/"):
        assert served.client.get(place).status_code == 404
    assert served.client.post(f"/owner/{token}/close").status_code == 404
    assert not served.store.closed and served.kept() == []


def test_tokens_are_compared_in_constant_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from ifuvit.studies import server

    compared: list[bytes] = []
    compare = server.hmac.compare_digest
    monkeypatch.setattr(server.hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    served.client.get(served.link())
    assert compared == [rater.token.encode() for rater in served.study.raters], "with all, whichever it is"


def test_only_a_raters_own_images_are_served(tmp_path: Path) -> None:
    served = Served(make_study(tmp_path, "count", raters=4, raters_per_item=1))
    own, others = (
        {name for task in rater.tasks for name in served.study.images(task)} for rater in served.study.raters[:2]
    )
    assert served.client.get(served.link(f"images/{next(iter(own - others))}")).status_code == 200
    for name in (
        *(others - own), "study.json", "../study.json", "..%2fstudy.json", "%2e%2e/study.json", "..%5cstudy.json", "/etc/passwd", "%2fetc%2fpasswd",
        "", ".", "answers.sqlite", "../../../../etc/passwd", "....//study.json", f"{next(iter(own))}%00.txt",
    ):  # fmt: skip
        answer = served.client.get(served.link(f"images/{name}"))
        assert answer.status_code in (404, 422) and "token" not in answer.text, name
    for place in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/templates/page.html.j2", "/static/"):
        assert served.client.get(place).status_code == 404


def test_without_javascript_a_mistake_keeps_the_form(counts: Served, preferences: Served) -> None:
    answer = preferences.post(0, rank0="1", rank1="1", rank2="3", rank3="4")
    assert answer.status_code == 422 and "two images have the same rank" in answer.text
    checked = re.findall(r'name="(rank\d)" value="(\d)" required checked', answer.text)
    assert checked == [("rank0", "1"), ("rank1", "1"), ("rank2", "3"), ("rank3", "4")]
    missing = preferences.post(0, rank2=None)
    assert "image C has no rank" in missing.text and missing.text.count("required checked") == 3
    small = counts.post(0, count=None, more="3", status="answered")
    assert small.status_code == 422 and "3 is less than 10" in small.text
    assert counts.post(0, count=None, more="12", status="answered").status_code == 303
    assert [one.count for one in (*counts.kept(), *preferences.kept())] == [12]


# ------------------------------------------------------------------------------------------------------- recruited raters


def recruiting(made: Path, tmp_path: Path, **settings) -> tuple[Served, str]:
    served = Served(shutil.copytree(made / "count", tmp_path / "count"), agreed=False)
    served.app = make_app(served.directory, **settings)
    served.client = TestClient(served.app, follow_redirects=False)
    return served, f"/join/{served.study.join_token}"


def test_recruited_people_take_the_places_of_raters(made: Path, tmp_path: Path) -> None:
    served, join = recruiting(made, tmp_path, participant_parameter="worker")
    assert served.client.get(join).status_code == 400 and "worker=…" in served.client.get(join).text
    assert served.client.get(f"{join}?PROLIFIC_PID=a").status_code == 400
    for nobody in ("%20", "x" * 101, "a%00b"):
        assert served.client.get(f"{join}?worker={nobody}").status_code == 400
    for _ in range(3):  # who only looks takes no place
        assert "Agree and begin" in served.client.get(f"{join}?worker=looker").text
    assert served.store.participants() == {}
    hostile = "<script>&\"'"
    page = served.client.get(join, params={"worker": hostile}).text
    assert "<script>&" not in page and "&lt;script&gt;" in page
    for participant, rater in (("ann", 0), ("bob", 1), ("ann", 0)):
        assert served.client.post(join, data={"participant": participant}).headers["location"] == served.link(0, rater)
        assert served.client.get(f"{join}?worker={participant}").headers["location"] == served.link("", rater)
    assert served.store.participants() == {"r01": "ann", "r02": "bob"}
    assert served.post(0).status_code == 303, "to join is to agree"
    assert "All places are taken" in served.client.get(f"{join}?worker=carl").text
    assert "All places are taken" in served.client.post(join, data={"participant": "carl"}).text
    owner = served.client.get(f"/owner/{served.study.owner_token}/").text
    assert (
        "<td>ann</td>" in owner and "bob" in served.client.get(f"/owner/{served.study.owner_token}/export/links").text
    )
    assert served.client.get(f"/join/{served.rater.token}?worker=x").status_code == 404
    assert "ann" not in served.client.get(f"/owner/{served.study.owner_token}/export/csv").text


def test_at_the_end_there_is_a_code_and_a_way_back(made: Path, tmp_path: Path) -> None:
    url = "https://app.prolific.com/submissions/complete?cc=C0DE&x=1"
    served, _ = recruiting(made, tmp_path, completion_code="C0DE", completion_url=url)
    served.store.agree("r01", "2026-01-01T00:00:00+00:00")
    assert "C0DE" not in served.client.get(served.link("end")).text, "not before everything is answered"
    for number in range(len(served.rater.tasks)):
        served.post(number)
    page = served.client.get(served.link("end")).text
    escaped = url.replace("&", "&amp;")
    assert "Your completion code: C0DE" in page and f'href="{escaped}"' in page
    assert 'http-equiv="refresh"' not in page, "who comes back to look again stays"
    last = len(served.rater.tasks) - 1
    page = served.client.get(served.link(f"end?after={last}")).text
    assert f'<meta http-equiv="refresh" content="20;url={escaped}">' in page and "taken back in 20 seconds" in page
    assert f'href="{served.link("end")}"' in page and f'action="{served.link(f"{last}/undo")}"' in page
    for wrong in ("x", "-1", "99", "1e1", "9" * 9):
        assert 'http-equiv="refresh"' not in served.client.get(served.link(f"end?after={wrong}")).text
    plain, _ = recruiting(made, tmp_path / "plain")
    plain.store.agree("r01", "2026-01-01T00:00:00+00:00")
    for number in range(len(plain.rater.tasks)):
        plain.post(number)
    page = plain.client.get(plain.link(f"end?after={last}")).text
    assert 'http-equiv="refresh"' not in page and "/undo" in page and "taken back" not in page


def test_minutes_are_those_that_it_takes(made: Path, tmp_path: Path) -> None:
    """Assumed at first; then what tasks took others, and for the owner what they took this rater."""
    directory = make_study(tmp_path, "count", prompts=tuple(f"{n} sheep" for n in range(2, 10)), images_per_prompt=3)
    served, owner = Served(directory), f"/owner/{read_study(directory).owner_token}/"
    total = len(served.rater.tasks)
    assert total == 98

    def told(rater: int) -> int:
        return int(re.search(r"about (\d+) min", served.client.get(served.link("", rater)).text)[1])  # type: ignore[index]

    def left() -> list[int]:
        rows = served.client.get(owner).text.split("<tbody>")[1].split("</tr>")[:2]
        return [int(re.search(r" of 98</td><td>(\d+)</td>", row)[1]) for row in rows]  # type: ignore[index]

    assert told(1) == 10 and left() == [10, 10], "6 s each"
    for number in range(4):
        served.post(number, seconds="30")
    assert told(1) == 10, "too few to know"
    served.post(4, seconds="600")
    assert told(1) == 49 and left() == [46, 49], "30 s each"
    links = served.client.get(f"{owner}export/links").text
    assert [row.split(",")[4] for row in links.splitlines()[1:]] == ["49", "49"]
    for number in range(5):
        served.post(number, 1, seconds="3")
    assert told(1) == round(98 * 16.5 / 60) and left() == [46, round(93 * 3 / 60)], "the median of both; of this one"
    export(StudyExportConfig(study=directory, format="forms", out=tmp_path / "forms"))
    assert "about 27 min" in (tmp_path / "forms" / "r02.html").read_text(encoding="utf-8")


def test_a_study_of_an_earlier_version_lacks_no_text(made: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(made / "choice", tmp_path / "choice")
    written = json.loads((directory / "study.json").read_text())
    assert written["texts"].pop("stay") == "Hier bleiben"
    written["texts"]["skip"] = "Weiter"
    (directory / "study.json").write_text(json.dumps(written))
    assert (read_study(directory).texts["stay"], read_study(directory).texts["skip"]) == ("Hier bleiben", "Weiter")


# ------------------------------------------------------------------------------------------------- people come and go


def test_raters_come_and_go_while_it_is_served(served: Served) -> None:
    served.post(0)
    served.post(0, rater=1)
    assert withdraw(StudyWithdrawConfig(study=served.directory, rater="r01")) == 1
    for answer in (
        served.client.get(served.link()),
        served.client.get(served.link(1)),
        served.post(1),
        served.post("agree"),
    ):
        assert answer.status_code == 410 and "nothing of what you answered is stored" in answer.text
    assert [one.rater for one in served.kept()] == ["r02"] and served.store.agreed("r01") is None
    (new,), lacking = add(StudyAddRatersConfig(study=served.directory, number=1))
    page = served.client.get(f"/r/{new.token}/")
    assert page.status_code == 200 and "Agree and begin" in page.text and lacking == 0
    assert {task.item for task in new.tasks} == {task.item for task in served.rater.tasks}
    owner = served.client.get(f"/owner/{served.study.owner_token}/").text
    assert (
        served.rater.token not in owner and new.token in owner and "Withdrawn, with all answers deleted: r01" in owner
    )


# --------------------------------------------------------------------------------------------------------- under faults


def test_a_locked_database_keeps_nobody_waiting(counts: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing says soon that nothing was saved; reading does not notice."""
    other = sqlite3.connect(counts.directory / "answers.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    answer = counts.post(0)
    assert answer.status_code == 503 and time.monotonic() - began < 6
    assert "Not saved" in answer.text and counts.link(0) in answer.text and answer.headers["retry-after"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    began = time.monotonic()
    for place in ("", "0", "end"):
        assert counts.client.get(counts.link(place)).status_code == 200
    assert time.monotonic() - began < 2
    other.execute("ROLLBACK")
    assert counts.kept() == [] and counts.post(0).status_code == 303


def test_a_full_disk_is_told(counts: Served) -> None:
    """SQLite's own limit on pages gives the error that a full disk does."""
    pages = counts.store._writer.execute("PRAGMA page_count").fetchone()[0]
    counts.store._writer.execute(f"PRAGMA max_page_count={pages}")
    statuses = [counts.post(task).status_code for task in range(9)]
    for version in range(1, 400):
        statuses.append(counts.post(0, version=str(version)).status_code)
        if statuses[-1] == 503:
            break
    assert statuses[-1] == 503
    kept = len(counts.kept())
    assert kept == statuses.count(303) and counts.client.get(counts.link(1)).status_code == 200
    counts.store._writer.execute("PRAGMA max_page_count=100000")
    assert counts.post(0, version=str(version)).status_code == 303 and len(counts.kept()) == kept + 1


def test_unexpected_errors_keep_the_headers(counts: Served) -> None:
    name = counts.study.images(counts.rater.tasks[0])[0]
    (counts.directory / "images" / name).unlink()
    client = TestClient(counts.app, raise_server_exceptions=False)
    answer = client.get(counts.link(f"images/{name}"))
    assert answer.status_code == 500 and "could not answer" in answer.text and "Traceback" not in answer.text
    assert (
        "default-src 'none'" in answer.headers["content-security-policy"]
        and answer.headers["referrer-policy"] == "no-referrer"
    )


def test_a_form_that_does_not_arrive(counts: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost in the middle of it, or it takes too long: no traceback, nothing stored."""
    from ifuvit.studies import posting

    monkeypatch.setattr(posting, "BODY_SECONDS", 0.05)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": "",
        "path": counts.link(0), "raw_path": counts.link(0).encode(), "query_string": b"", "server": ("testserver", 80),
        "client": ("127.0.0.1", 1), "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
    }  # fmt: skip

    def post(*rest: dict) -> list[int]:
        messages = iter([{"type": "http.request", "body": b"version=0&cou", "more_body": True}, *rest])
        sent: list[int] = []

        async def receive() -> dict:
            if (message := next(messages, None)) is None:
                await asyncio.sleep(10)
            return message  # type: ignore[return-value]

        async def send(message: dict) -> None:
            sent.append(message.get("status", 0))

        asyncio.run(counts.app(dict(scope), receive, send))  # type: ignore[arg-type]
        return [status for status in sent if status]

    assert post({"type": "http.disconnect"}) == [400]
    assert post() == [408]
    assert counts.kept() == []


# ------------------------------------------------------------------------------------------------------------- headers


class Scripts(HTMLParser):
    """What of a page could run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if (tag == "script" and "src" not in facts) or tag == "style":
            self.inline.append(tag)
        self.inline += [name for name in facts if name.startswith("on") or name == "style"]
        self.loaded += [value for name, value in attrs if name in ("src", "href", "action") and value]


def test_headers_and_no_inline_script(served: Served) -> None:
    served.post(0)
    owner = f"/owner/{served.study.owner_token}/"
    pages = [served.link(), served.link(0), served.link(1), served.link("end"), owner, "/nowhere"]
    for place in [
        *pages,
        "/static/study.js",
        served.link(f"images/{served.study.images(served.rater.tasks[0])[0]}"),
    ]:
        page = served.client.get(place)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer", "addresses are secrets"
        assert "server" not in page.headers and "access-control-allow-origin" not in page.headers
        if place in pages:
            assert page.headers["cache-control"] == "no-store"
            found = Scripts(page.text)
            assert found.inline == []
            assert not [link for link in found.loaded if "//" in link and not link.startswith("http://testserver/r/")]


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> & \"quotes\" 'too'"
    served = Served(make_study(tmp_path, "preference", prompts=(hostile, "b"), title="<b>T</b>"))
    number = next(n for n, task in enumerate(served.rater.tasks) if served.study.item(task.item).prompt == hostile)
    page = served.client.get(served.link(number)).text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<b>T</b>" not in served.client.get(served.link()).text
    refused = served.post(0, **{"<img src=x>": "1"})
    assert refused.status_code == 422 and "<img src=x>" not in refused.text


# ---------------------------------------------------------------------------------------------------------- the owner


def test_the_owners_page(served: Served) -> None:
    owner = f"/owner/{served.study.owner_token}/"
    empty = served.client.get(owner).text
    assert "No two raters have answered the same item yet" in empty
    for rater in served.study.raters:
        assert f"http://testserver/r/{rater.token}/" in empty
    for rater in range(2):
        for number, task in enumerate(served.study.raters[rater].tasks):
            if served.study.kind == "count":
                served.post(number, rater, count=str(served.study.item(task.item).count))
            else:
                served.post(number, rater, **{f"rank{slot}": str(1 + model) for slot, model in enumerate(task.order)})
    page = served.client.get(owner).text
    total = len(served.rater.tasks)
    assert page.count(f"<td>{total} of {total}</td>") == 2 and f"<td>{2 * total} of {2 * total}</td>" in page
    assert "100 % of the time" in page and "100 %</td>" in page
    if served.study.kind == "count":
        assert page.count("<td>1 of 1</td>") == 2, "checks that were right"

    for name, write in (("csv", answers.as_csv), ("json", answers.as_json), ("label-studio", answers.as_label_studio)):
        exported = served.client.get(f"{owner}export/{name}")
        assert exported.text == write(served.study, answers.read_answers(served.directory))
        assert exported.headers["content-disposition"].startswith("attachment")
    assert served.client.get(f"{owner}export/study.json").status_code == 404


# ---------------------------------------------------------------------------------------------------------- many, killed


def test_fifty_raters_at_once_lose_nothing(tmp_path: Path) -> None:
    served = Served(make_study(tmp_path, "count", raters=50, raters_per_item=25, repeats=0, checks=0))
    rounds = 4

    async def everybody() -> list[int]:
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:

            async def one(number: int) -> list[int]:
                return [
                    (await client.post(served.link(task, number), data=served.right(count=str(task)))).status_code
                    for task in range(rounds)
                ]

            return [status for statuses in await asyncio.gather(*map(one, range(50))) for status in statuses]

    assert asyncio.run(everybody()) == [303] * 50 * rounds
    kept = {(entry.rater, entry.task, entry.count) for entry in served.kept()}
    assert kept == {(rater.id, task, task) for rater in served.study.raters for task in range(rounds)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_server_loses_no_answer_that_it_acknowledged(tmp_path: Path) -> None:
    directory = make_study(
        tmp_path, "count", prompts=tuple(f"{n} sheep" for n in range(2, 10)), raters=8, raters_per_item=8
    )
    study, port = read_study(directory), free_port()
    command = [sys.executable, "-m", "ifuvit", "study", "serve", str(directory), "--port", str(port)]
    acknowledged: set[tuple[str, int]] = set()

    def answer(rater: Rater) -> None:
        with httpx.Client(timeout=30) as client:
            client.post(f"http://127.0.0.1:{port}/r/{rater.token}/agree")
            for task in range(len(rater.tasks)):
                try:
                    link = f"http://127.0.0.1:{port}/r/{rater.token}/{task}"
                    status = client.post(link, data={"version": "0", "count": "3"}).status_code
                except httpx.HTTPError:
                    return
                assert status == 303
                acknowledged.add((rater.id, task))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            assert process.stdout is not None
            assert f"http://127.0.0.1:{port}\n" in process.stdout.readline()
            assert study.owner_token in process.stdout.readline()
            wait_for(port)
            threads = [threading.Thread(target=answer, args=(rater,)) for rater in study.raters]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 60
            while len(acknowledged) < 60 and time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    kept = {(entry.rater, entry.task) for entry in Store(directory).entries()}
    assert len(acknowledged) >= 60 and acknowledged <= kept
    assert len(kept) < sum(len(rater.tasks) for rater in study.raters), "it was killed on the way"
    # The next server goes on from there, and takes what was kept but not acknowledged for what it is.
    client = TestClient(make_app(directory), follow_redirects=False)
    rater, task = study.raters[0], next(number for name, number in sorted(kept) if name == study.raters[0].id)
    assert client.post(f"/r/{rater.token}/{task}", data={"version": "0", "count": "3"}).status_code == 409


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/")
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_a_port_that_is_taken(counts: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = StudyServeConfig(study=counts.directory, port=taken.getsockname()[1])
        with pytest.raises(InputError, match=r"--port \d+: cannot listen there"):
            serve(config, say=print)


@pytest.mark.multiprocess
def test_one_server_a_study(ifuvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is refused, on another port too, before it says where raters reach it; the lock of a server that was killed
    is taken over, and that of one that ends is gone."""
    directory = make_study(tmp_path, "count")
    first, second = (str(free_port()) for _ in range(2))
    here: list[str] = []

    def run(app: object, listening: socket.socket) -> None:
        listening.close()
        (file,) = directory.glob(".*.lock")
        here.append(file.read_text())

    monkeypatch.setattr(connections, "run", run)
    command = [sys.executable, "-m", "ifuvit", "study", "serve", str(directory), "--port", first]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "raters reach the study at" in process.stdout.readline()
            for port in (second, first):
                ran = ifuvit("study", "serve", directory, "--port", port)
                assert (ran.status, ran.out) == (2, "") and not here
                assert f"process {process.pid} on {socket.gethostname()} is writing there" in ran.err
        finally:
            process.kill()
    (left,) = directory.glob(".*.lock")
    assert str(process.pid) in left.read_text()
    for _ in range(2):
        ran = ifuvit("study", "serve", directory, "--port", second)
        assert ran.status == 0 and f"reach the study at http://127.0.0.1:{second}\n" in ran.out
        assert not left.exists()
    assert here == [f"process {os.getpid()} on {socket.gethostname()}"] * 2


def test_study_json_is_not_for_everybody(counts: Served) -> None:
    if os.name == "posix":
        assert (counts.directory / "study.json").stat().st_mode & 0o077 == 0
    assert json.loads((counts.directory / "manifest.json").read_text())["command"] == "study make"
    assert counts.study.owner_token not in (counts.directory / "manifest.json").read_text()

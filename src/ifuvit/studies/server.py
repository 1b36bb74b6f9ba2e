"""The web application of a study: pages for its raters by private links, and one for its owner.

Pages are rendered here and work without JavaScript; study.js adds keys, taps on images and dragging, and waits for images. An
answer is an HTML form that is posted, kept in the database before it is acknowledged, and acknowledged by the way to the next
task. Every form holds how many answers its task had when the page was made (`version`), so that an answer sent twice, or from
an old page, is distinguished from a change of mind.

What handlers raise has a key of the study's texts as its detail; `refused` makes a page of it.
"""

import hmac
import math
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message, Receive, Scope, Send

from ifuvit.studies.answers import EXPORTS, Answer, check_entry, collect
from ifuvit.studies.design import IMAGES, STUDY_FILE, Rater, Study, read_study
from ifuvit.studies.pages import (
    TaskView,
    in_words,
    instructions,
    length,
    paragraphs,
    render,
    static_file,
    view_task,
)
from ifuvit.studies.posting import Incomplete, form_fields, moment, read_form
from ifuvit.studies.progress import agreement_so_far, links_csv, rater_progress, task_seconds
from ifuvit.studies.store import Closed, Entry, NotAgreed, Outdated, Store
from ifuvit.studies.texts import Texts
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now

_STATIC = {
    "study.css": "text/css",
    "study.js": "text/javascript",
    "owner.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_TITLES = {
    403: "not taken",
    404: "not found",
    409: "answered already",
    410: "withdrawn",
    422: "not taken",
    503: "not saved",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # addresses have tokens in them
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Robots-Tag": "noindex",
}
MAX_PARTICIPANT = 100
"""Letters of what a link says of who comes by it."""
MAX_NAME = 100
RETURN_SECONDS = 20
"""How long raters who have finished may stop the way back, or undo the last answer: what WCAG 2.2 (2.2.1) asks for."""


@dataclass(kw_only=True)
class Site:
    """What is served."""

    directory: Path
    store: Store
    url: str
    """Where raters reach it; empty for wherever the owner does."""
    participant_parameter: str
    completion_code: str | None
    completion_url: str | None
    writers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(math.inf))
    """Of threads that wait for the database to be free: others than those that read."""
    _read: tuple[Any, Study, Mapping[str, frozenset[str]]] | None = None

    @property
    def study(self) -> Study:
        """As study.json has it now: raters are added and withdraw while it is served."""
        return self._present()[1]

    @property
    def images(self) -> Mapping[str, frozenset[str]]:
        """By rater, the files that may be seen."""
        return self._present()[2]

    def _present(self) -> tuple[Any, Study, Mapping[str, frozenset[str]]]:
        status = (self.directory / STUDY_FILE).stat()
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._read is None or self._read[0] != version:
            study = read_study(self.directory)
            images = {
                rater.id: frozenset(name for task in rater.tasks for name in study.images(task))
                for rater in study.raters
            }
            self._read = (version, study, images)
        return self._read

    def answers(self) -> list[Answer]:
        """Everybody's last answers."""
        return collect(self.study, self.store.entries())

    async def write(self, action: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Have the store do something that may have to wait, in a thread that keeps no reader waiting."""
        return await to_thread.run_sync(partial(action, *given, **named), limiter=self.writers)


class _App(FastAPI):
    """Adds the headers that every response has, also the one to an unexpected error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                if b"cache-control" not in {name for name, _ in message["headers"]}:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await super().__call__(scope, receive, send_with_headers if scope["type"] == "http" else send)


def make_app(
    directory: Path,
    *,
    url: str = "",
    participant_parameter: str = "PROLIFIC_PID",
    completion_code: str | None = None,
    completion_url: str | None = None,
) -> FastAPI:
    """The application that serves the study of a directory.

    Args:
        url: where raters reach it, for the links on the owner's page.
        participant_parameter: the parameter of the link for recruited people that says who they are.
        completion_code: what raters are shown who have answered everything.
        completion_url: where they are taken then.

    Raises:
        InputError: no study, or a broken one.
    """
    read_study(directory)
    app = _App(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.site = Site(
        directory=directory,
        store=Store(directory),
        url=url,
        participant_parameter=participant_parameter,
        completion_code=completion_code,
        completion_url=completion_url,
    )
    app.include_router(_raters)
    app.include_router(_joining)
    app.include_router(_owners)
    app.get("/static/{name}")(static)
    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(
        RequestValidationError, lambda request, _: refused(request, HTTPException(422, "no form"))
    )
    app.add_exception_handler(sqlite3.Error, unavailable)
    app.add_exception_handler(Exception, failed)
    return app


async def site_of(request: Request) -> Site:
    """What the application serves."""
    return request.app.state.site


# -------------------------------------------------------------------------------------------------------- who and what
# These wait for nothing, so they are coroutines: plain functions would each be handed to another thread.


async def rater_of(token: str, site: Annotated[Site, Depends(site_of)]) -> Rater:
    """The rater whose link it is."""
    found = None
    for rater in site.study.raters:  # all of them, each in constant time: how long it takes reveals nothing
        if _same(rater.token, token):
            found = rater
    if found is None:
        raise HTTPException(404, "unknown link")
    if found.withdrawn is not None:
        raise HTTPException(410, "withdrawn text")
    return found


async def check_owner(token: str, site: Annotated[Site, Depends(site_of)]) -> None:
    """Let the study's owner pass."""
    if not _same(site.study.owner_token, token):
        raise HTTPException(404, "unknown link")


async def task_number(number: str, rater: Annotated[Rater, Depends(rater_of)]) -> int:
    """Which of the rater's tasks."""
    if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) < len(rater.tasks)):
        raise HTTPException(404, "no such task")
    return int(number)


def _same(secret: str, given: str) -> bool:
    return hmac.compare_digest(secret.encode(), given.encode("utf-8", "surrogateescape"))


TheSite = Annotated[Site, Depends(site_of)]
TheRater = Annotated[Rater, Depends(rater_of)]
TheTask = Annotated[int, Depends(task_number)]
TheFields = Annotated[dict[str, str], Depends(form_fields)]


# -------------------------------------------------------------------------------------------------------------- raters

_raters = APIRouter(prefix="/r/{token}")


@_raters.get("")
def to_start(rater: TheRater) -> Response:
    """A link whose end was lost."""
    return _go(rater)


@_raters.get("/")
def start(site: TheSite, rater: TheRater) -> Response:
    """What it is about, and the way to where the rater is."""
    done, total = site.store.answered(rater.id), len(rater.tasks)
    if site.store.closed:
        return _closed(site)
    if len(done) == total:
        return _go(rater, "end")
    agreed = site.store.agreed(rater.id) is not None
    return _start_page(
        site,
        rater,
        links=[("continue", _link(rater, _next(done, total, 0)))] if agreed else [],
        agree=None if agreed else _link(rater, "agree"),
        done=len(done),
        total=total,
    )


@_raters.post("/agree")
async def agree(site: TheSite, rater: TheRater) -> Response:
    """Keep that the rater agrees to take part, and go on."""
    if site.store.closed:
        raise HTTPException(403, "closed text")
    await site.write(site.store.agree, rater.id, now())
    following = _next(site.store.answered(rater.id), len(rater.tasks), 0)
    return _go(rater, "end" if following is None else following)


@_raters.get("/end")
def end(site: TheSite, rater: TheRater, after: str = "") -> Response:
    """Thanks, or what is left. Right after the last answer the page goes on to the completion URL by itself.

    Args:
        after: the task that was answered just now, which can be undone.
    """
    done, total = site.store.answered(rater.id), len(rater.tasks)
    t = Texts(site.study.texts)
    if left := total - len(done):
        if site.store.closed:
            return _closed(site)
        told = [t.plain("not finished text", left=left, total=total)]
        links = [("continue", _link(rater, _next(done, total, 0)))]
        return _page(site, "text.html.j2", heading="not finished", told=told, links=links, done=len(done), total=total)
    told, links = [t.plain("thanks text")], [("look again", _link(rater, total - 1))]
    saved, leave = _saved(site, rater, after, done), None
    if site.completion_url is not None:
        if saved is not None:
            leave = (RETURN_SECONDS, site.completion_url)
            told.append(t.plain("return soon", seconds=RETURN_SECONDS))
            links.insert(0, ("stay", _link(rater, "end")))
        links.insert(0, ("return", site.completion_url))
    return _page(
        site,
        "text.html.j2",
        heading="thanks",
        told=told,
        code=site.completion_code,
        links=links,
        saved=saved,
        leave=leave,
        done=len(done),
        total=total,
    )


@_raters.get("/images/{name}")
def image(name: str, site: TheSite, rater: TheRater) -> Response:
    """One of the rater's images: its bytes, and neither their date nor a tag made from it."""
    if name not in site.images[rater.id]:
        raise HTTPException(404, "unknown page")
    content = (site.directory / IMAGES / name).read_bytes()
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@_raters.get("/{number}")
def task(site: TheSite, rater: TheRater, number: TheTask, after: str = "") -> Response:
    """A task, with the answer that it has; before that what it is about, to who has not agreed to take part.

    Args:
        after: the task that was answered just now, which can be undone.
    """
    if site.store.closed:
        return _closed(site)
    if site.store.agreed(rater.id) is None:
        return _go(rater)
    return _task_page(site, rater, number, after=after)


@_raters.post("/{number}")
async def answer(site: TheSite, rater: TheRater, number: TheTask, fields: TheFields) -> Response:
    """Keep an answer, and go on."""
    study = site.study
    try:
        entry, version = read_form(study, rater, number, fields)
        check_entry(study, entry)
    except Incomplete as error:
        why = Texts(study.texts).plain(error.key, **error.values)
        return await to_thread.run_sync(partial(_task_page, site, rater, number, why=why, draft=fields))
    except InputError as error:
        return await to_thread.run_sync(partial(_task_page, site, rater, number, why=str(error)))
    await _add(site, entry, version)
    following = _next(site.store.answered(rater.id), len(rater.tasks), number + 1)
    return _go(rater, f"{'end' if following is None else following}?after={number}")


@_raters.post("/{number}/undo")
async def undo(site: TheSite, rater: TheRater, number: TheTask, fields: TheFields) -> Response:
    """Take the answer of a task back, and ask again. That it was there stays in the record."""
    version = fields.get("version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 7):
        raise HTTPException(422, "no form")
    await _add(site, Entry(rater=rater.id, task=number, status="undone", at=moment()), int(version))
    return _go(rater, number)


async def _add(site: Site, entry: Entry, version: int) -> None:
    try:
        await site.write(site.store.add, entry, version=version)
    except NotAgreed:
        raise HTTPException(403, "not agreed") from None
    except Outdated:
        raise HTTPException(409, "outdated") from None
    except Closed:
        raise HTTPException(403, "closed text") from None


def _task_page(
    site: Site, rater: Rater, number: int, *, after: str = "", why: str = "", draft: Mapping[str, str] | None = None
) -> Response:
    """The page of a task.

    Args:
        after: the task that was answered just now, if any.
        why: why an answer was not taken.
        draft: the fields of that answer.
    """
    done, total = site.store.answered(rater.id), len(rater.tasks)
    coming = _next(done | {number}, total, number + 1)
    ahead = (
        [] if coming is None else [_link(rater, f"images/{name}") for name in site.study.images(rater.tasks[coming])]
    )
    page = _page(
        site,
        "served_task.html.j2",
        view=_view(site, rater, number, draft),
        saved=_saved(site, rater, after, done - {number}),
        why=why,
        ahead=ahead,
        done=len(done),
        total=total,
        following=_link(rater, number + 1 if number + 1 < total else "end"),
    )
    page.status_code = 422 if why else 200
    return page


def _view(site: Site, rater: Rater, number: int, draft: Mapping[str, str] | None = None) -> TaskView:
    given = site.store.of_task(rater.id, number)
    return view_task(site.study, rater, number, given, lambda name: _link(rater, f"images/{name}"), draft=draft)


def _saved(site: Site, rater: Rater, after: str, done: set[int]) -> dict[str, Any] | None:
    """What was saved just now, and how it is undone; nothing where `after` is no task that is done."""
    if not (after.isascii() and after.isdigit() and len(after) < 7 and int(after) in done):
        return None
    last = _view(site, rater, int(after))
    undo = _link(rater, f"{int(after)}/undo")
    return {"answer": in_words(site.study, last), "version": last.version, "undo": undo}


def _start_page(site: Site, rater: Rater, **values: Any) -> Response:
    study = site.study
    return _page(
        site,
        "start.html.j2",
        title=study.title,
        paragraphs=paragraphs(study.consent),
        instructions=instructions(study),
        length=length(study, rater, task_seconds(study, site.answers())),
        **{"links": [], "agree": None, "hidden": {}, "done": 0, "total": 0, **values},
    )


def _closed(site: Site) -> Response:
    told = [site.study.texts["closed text"]]
    return _page(site, "text.html.j2", heading="closed", told=told)


def _next(done: set[int], total: int, start: int) -> int | None:
    """The first task without an answer from `start` on, then from the beginning; None where all have one."""
    return next((number for number in (*range(start, total), *range(start)) if number not in done), None)


def _link(rater: Rater, place: object = "") -> str:
    return f"/r/{rater.token}/{place}"


def _go(rater: Rater, place: object = "") -> Response:
    return RedirectResponse(_link(rater, place), 303)


# ---------------------------------------------------------------------------------------------------- recruited raters


async def check_join(token: str, site: TheSite) -> None:
    """Let people pass who come by the link for recruited raters."""
    if not (site.study.join_token and _same(site.study.join_token, token)):
        raise HTTPException(404, "unknown link")


_joining = APIRouter(prefix="/join/{token}", dependencies=[Depends(check_join)])


@_joining.get("")
def join(request: Request, site: TheSite) -> Response:
    """What it is about, to somebody who was recruited; to who has begun, the way to where they are."""
    participant = _participant(site, request.query_params.get(site.participant_parameter, ""))
    known = {who: rater for rater, who in site.store.participants().items()}
    if participant in known:
        rater = site.study.rater(known[participant])
        assert rater is not None
        return _go(rater)
    if site.store.closed:
        return _closed(site)
    free = _free(site)
    if not free:
        return _full(site)
    return _start_page(site, free[0], agree=request.url.path, hidden={"participant": participant})


@_joining.post("")
async def take_place(site: TheSite, fields: TheFields) -> Response:
    """Keep that somebody agrees to take part, and as which rater."""
    participant = _participant(site, fields.get("participant", ""))
    try:
        found = await site.write(site.store.join, participant, [rater.id for rater in site.study.active], now())
    except Closed:
        raise HTTPException(403, "closed text") from None
    rater = site.study.rater(found) if found is not None else None
    return _full(site) if rater is None else _go(rater, 0)


def _participant(site: Site, text: str) -> str:
    text = text.strip()
    if not (text and len(text) <= MAX_PARTICIPANT and text.isprintable()):
        raise HTTPException(400, "no participant")
    return text


def _free(site: Site) -> list[Rater]:
    """Raters whom nobody is yet."""
    taken = site.store.participants()
    return [rater for rater in site.study.active if rater.id not in taken and site.store.agreed(rater.id) is None]


def _full(site: Site) -> Response:
    return _page(site, "text.html.j2", heading="full", told=[site.study.texts["full text"]])


# ----------------------------------------------------------------------------------------------------------- the owner

_owners = APIRouter(prefix="/owner/{token}", dependencies=[Depends(check_owner)])


@_owners.get("")
def to_progress(site: TheSite) -> Response:
    """The owner's link without its last slash."""
    return RedirectResponse(f"/owner/{site.study.owner_token}/", 303)


@_owners.get("/")
def progress(request: Request, site: TheSite) -> Response:
    """How far everybody is, and everybody's link."""
    study, answers = site.study, site.answers()
    url = _url(request, site)
    names, participants, usual = site.store.names(), site.store.participants(), task_seconds(study, answers)
    rows = [
        {
            **rater_progress(study, rater, answers, usual=usual),
            "name": names.get(rater.id, ""),
            "participant": participants.get(rater.id),
            "agreed": site.store.agreed(rater.id),
            "link": f"{url}{_link(rater)}",
        }
        for rater in study.active
    ]
    return _page(
        site,
        "owner.html.j2",
        rows=rows,
        withdrawn=[rater for rater in study.raters if rater.withdrawn is not None],
        done=len(answers),
        total=sum(row["total"] for row in rows),
        minutes_left=max((row["minutes_left"] for row in rows), default=0),
        recruited=any(row["participant"] for row in rows),
        agreement=agreement_so_far(study, answers),
        formats=list(EXPORTS),
        join=f"{url}/join/{study.join_token}?{site.participant_parameter}=" if study.join_token else None,
        closed=site.store.closed,
        now=now()[:16].replace("T", " "),
    )


def _url(request: Request, site: Site) -> str:
    return site.url or str(request.base_url).rstrip("/")


@_owners.get("/export/{format}")
def export(format: str, request: Request, site: TheSite) -> Response:
    """All answers as a file; or everybody's link."""
    study = site.study
    if format == "links":
        name, media = "links.csv", "text/csv"
        text = links_csv(study, site.answers(), site.store.names(), site.store.participants(), _url(request, site))
    elif format in EXPORTS:
        name, write = EXPORTS[format]
        text, media = write(study, site.answers()), "text/csv" if format == "csv" else "application/json"
    else:
        raise HTTPException(404, "unknown page")
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=media, headers=disposition)


@_owners.get("/close")
def ask_to_close(site: TheSite) -> Response:
    """Ask before the study is closed."""
    return _page(site, "close.html.j2", done=len(site.answers()))


@_owners.post("/name")
async def name(site: TheSite, fields: TheFields) -> Response:
    """Keep what the owner calls a rater."""
    rater, text = site.study.rater(fields.get("rater", "")), fields.get("name", "").strip()
    if rater is None or len(text) > MAX_NAME or (text and not text.isprintable()):
        raise HTTPException(422, "no form")
    await site.write(site.store.name, rater.id, text)
    return RedirectResponse(f"./#{rater.id}", 303)


@_owners.post("/{action}")
async def close(action: str, site: TheSite) -> Response:
    """Close the study, or open it again."""
    if action not in ("close", "open"):
        raise HTTPException(404, "unknown page")
    await site.write(setattr, site.store, "closed", action == "close")
    return RedirectResponse(f"/owner/{site.study.owner_token}/", 303)


# ------------------------------------------------------------------------------------------------------------ the rest


def static(name: str) -> Response:
    """Style, script, icon."""
    if name not in _STATIC:
        raise HTTPException(404, "unknown page")
    return Response(static_file(name), media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})


def refused(request: Request, error: Exception) -> Response:
    """Anything but an answer, as a page that says what to do."""
    assert isinstance(error, StarletteHTTPException)
    site: Site = request.app.state.site
    t, here = Texts(site.study.texts), request.url.path
    own = isinstance(error, HTTPException)  # the framework's are not
    told = t.plain(str(error.detail) if own else "unknown page", parameter=site.participant_parameter)
    heading = _TITLES.get(error.status_code, "sorry")
    links = []
    if error.detail == "closed text":
        heading = "closed"
    elif error.status_code in (403, 409, 422) and request.method == "POST" and here.startswith("/r/"):
        links = [
            ("continue", f"{here.removesuffix('/undo').rsplit('/', 1)[0]}/"),
            ("back to the task", here.removesuffix("/undo")),
        ]
    page = _page(site, "text.html.j2", heading=heading, told=[told], links=links)
    page.status_code = error.status_code
    page.headers.update(error.headers or {})
    return page


def unavailable(request: Request, error: Exception) -> Response:
    """The database is locked, or the disk is full."""
    site: Site = request.app.state.site
    post = request.method == "POST"
    told = site.study.texts["not saved text" if post else "busy text"]
    links = (
        [("back to the task", request.url.path.removesuffix("/undo"))]
        if post and request.url.path.startswith("/r/")
        else []
    )
    page = _page(site, "text.html.j2", heading="not saved" if post else "sorry", told=[told], links=links)
    page.status_code = 503
    page.headers["Retry-After"] = "5"
    return page


def failed(request: Request, error: Exception) -> Response:
    """A fault of the program, or a file that vanished; it is logged, and its page says no more than that."""
    page = _page(
        request.app.state.site, "text.html.j2", heading="sorry", told=[request.app.state.site.study.texts["busy text"]]
    )
    page.status_code = 500
    return page


def _page(site: Site, template: str, **values: Any) -> HTMLResponse:
    defaults = {"links": [], "code": None, "saved": None, "leave": None, "done": 0, "total": 0}
    return HTMLResponse(render(template, site.study, **{**defaults, **values}))

"""The web application of a study: pages for its raters by private links, and one for its owner.

Pages are rendered here and work without JavaScript; study.js adds keys, taps on images and dragging. An answer is an HTML form
that is posted, kept in the database before it is acknowledged, and acknowledged by the way to the next task. Every form
holds how many answers its task had when the page was made (`version`), so that an answer sent twice, or from an old page,
is distinguished from a change of mind.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ifuvit.studies.answers import EXPORTS, Answer, check_entry, collect
from ifuvit.studies.design import IMAGES, Rater, Study, read_study
from ifuvit.studies.pages import paragraphs, render, static_file, view_task
from ifuvit.studies.posting import form_fields, read_form
from ifuvit.studies.progress import agreement_so_far, rater_progress
from ifuvit.studies.store import Closed, NotAgreed, Outdated, Store
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now

_STATIC = {"study.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}
_TITLES = {403: "Not taken", 404: "Not found", 409: "Answered already", 422: "Not taken"}
_UNKNOWN_LINK = "This link is not known. Please check that you have all of it."
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


@dataclass(frozen=True, kw_only=True)
class Site:
    """What is served."""

    directory: Path
    study: Study
    store: Store
    url: str
    """Where raters reach it; empty for wherever the owner does."""
    images: Mapping[str, frozenset[str]]
    """By rater, the files that may be seen."""

    def answers(self) -> list[Answer]:
        """Everybody's last answers."""
        return collect(self.study, self.store.entries())


def make_app(directory: Path, *, url: str = "") -> FastAPI:
    """The application that serves the study of a directory.

    Args:
        url: where raters reach it, for the links on the owner's page.

    Raises:
        InputError: no study, or a broken one.
    """
    study = read_study(directory)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.site = Site(
        directory=directory,
        study=study,
        store=Store(directory),
        url=url,
        images={
            rater.id: frozenset(name for task in rater.tasks for name in study.images(task)) for rater in study.raters
        },
    )
    app.include_router(_raters)
    app.include_router(_owners)
    app.get("/static/{name}")(static)
    app.add_middleware(_Headers)
    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, lambda request, _: refused(request, HTTPException(422)))
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
        raise HTTPException(404, _UNKNOWN_LINK)
    return found


async def check_owner(token: str, site: Annotated[Site, Depends(site_of)]) -> None:
    """Let the study's owner pass."""
    if not _same(site.study.owner_token, token):
        raise HTTPException(404, _UNKNOWN_LINK)


async def task_number(number: str, rater: Annotated[Rater, Depends(rater_of)]) -> int:
    """Which of the rater's tasks."""
    if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) < len(rater.tasks)):
        raise HTTPException(404, "There is no such task.")
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
    if len(done) == total:
        return _go(rater, "end")
    agreed = site.store.agreed(rater.id) is not None
    return _page(
        "text.html.j2",
        title=site.study.title,
        paragraphs=paragraphs(site.study.consent),
        note=f"{total} tasks, one a page. Every answer is saved at once.",
        links=[("Continue", _link(rater, _next(done, total, 0)))] if agreed else [],
        agree=None if agreed else _link(rater, "agree"),
        done=len(done),
        total=total,
    )


@_raters.post("/agree")
def agree(site: TheSite, rater: TheRater) -> Response:
    """Keep that the rater agrees to take part, and go on."""
    site.store.agree(rater.id, now())
    following = _next(site.store.answered(rater.id), len(rater.tasks), 0)
    return _go(rater, "end" if following is None else following)


@_raters.get("/end")
def end(site: TheSite, rater: TheRater) -> Response:
    """Thanks, or what is left."""
    done, total = site.store.answered(rater.id), len(rater.tasks)
    if left := total - len(done):
        title, text = "Not quite finished", f"{left} of {total} tasks are left. What you have answered is saved."
        link = ("Continue", _link(rater, _next(done, total, 0)))
    else:
        title = "Thank you"
        text = "All your answers are saved. You can close this page, or go back and change an answer."
        link = ("Look at my answers again", _link(rater, total - 1))
    return _page("text.html.j2", title=title, paragraphs=[text], links=[link], done=len(done), total=total)


@_raters.get("/images/{name}")
def image(name: str, site: TheSite, rater: TheRater) -> Response:
    """One of the rater's images: its bytes, and neither their date nor a tag made from it."""
    if name not in site.images[rater.id]:
        raise HTTPException(404, "There is no such image.")
    content = (site.directory / IMAGES / name).read_bytes()
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@_raters.get("/{number}")
def task(site: TheSite, rater: TheRater, number: TheTask) -> Response:
    """A task, with the answer that it has; before that what it is about, to who has not agreed to take part."""
    if site.store.agreed(rater.id) is None:
        return _go(rater)
    done, total = site.store.answered(rater.id), len(rater.tasks)
    given = site.store.of_task(rater.id, number)
    view = view_task(site.study, rater, number, given, lambda name: _link(rater, f"images/{name}"))
    following = _link(rater, number + 1 if number + 1 < total else "end")
    return _page("served_task.html.j2", view=view, done=len(done), total=total, following=following)


@_raters.post("/{number}")
def answer(site: TheSite, rater: TheRater, number: TheTask, fields: TheFields) -> Response:
    """Keep an answer, and go on."""
    try:
        entry, version = read_form(site.study, rater, number, fields)
        check_entry(site.study, entry)
    except InputError as error:
        raise HTTPException(422, f"This answer cannot be taken: {error}") from None
    try:
        site.store.add(entry, version=version)
    except NotAgreed:
        raise HTTPException(403, "Please read what this is about, and agree to it, before you answer.") from None
    except Outdated:
        raise HTTPException(409, "This was answered before, or in another window. Nothing was changed.") from None
    except Closed:
        raise HTTPException(403, "The study is closed: no more answers are taken.") from None
    following = _next(site.store.answered(rater.id), len(rater.tasks), number + 1)
    return _go(rater, "end" if following is None else following)


def _next(done: set[int], total: int, start: int) -> int | None:
    """The first task without an answer from `start` on, then from the beginning; None where all have one."""
    return next((number for number in (*range(start, total), *range(start)) if number not in done), None)


def _link(rater: Rater, place: object = "") -> str:
    return f"/r/{rater.token}/{place}"


def _go(rater: Rater, place: object = "") -> Response:
    return RedirectResponse(_link(rater, place), 303)


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
    url = site.url or str(request.base_url).rstrip("/")
    rows = [
        {**rater_progress(rater, answers), "agreed": site.store.agreed(rater.id), "link": f"{url}{_link(rater)}"}
        for rater in study.raters
    ]
    return _page(
        "owner.html.j2",
        title=f"Progress: {study.title}",
        study=study,
        rows=rows,
        done=len(answers),
        total=sum(row["total"] for row in rows),
        agreement=agreement_so_far(study, answers),
        formats=list(EXPORTS),
        closed=site.store.closed,
    )


@_owners.get("/export/{format}")
def export(format: str, site: TheSite) -> Response:
    """All answers as a file."""
    if format not in EXPORTS:
        raise HTTPException(404, "There is no such format.")
    name, write = EXPORTS[format]
    media = "text/csv" if format == "csv" else "application/json"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(write(site.study, site.answers()), media_type=media, headers=disposition)


@_owners.post("/{action}")
def close(action: str, site: TheSite) -> Response:
    """Close the study, or open it again."""
    if action not in ("close", "open"):
        raise HTTPException(404, "There is no such page.")
    site.store.closed = action == "close"
    return to_progress(site)


# ------------------------------------------------------------------------------------------------------------ the rest


def static(name: str) -> Response:
    """Style, script, icon."""
    if name not in _STATIC:
        raise HTTPException(404, "There is no such file.")
    return Response(static_file(name), media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})


def refused(request: Request, error: Exception) -> Response:
    """Anything but an answer, as a page that says what to do."""
    assert isinstance(error, StarletteHTTPException)
    own = isinstance(error, HTTPException)  # the framework's are not
    text = str(error.detail) if own else "There is no such page. Please use the link that you were given."
    links = []
    if error.status_code in (403, 409, 422) and request.method == "POST":
        here = request.url.path
        links = [("Continue", f"{here.rsplit('/', 1)[0]}/"), ("Back to the task", here)]
    page = _page("text.html.j2", title=_TITLES.get(error.status_code, "Sorry"), paragraphs=[text], links=links)
    page.status_code = error.status_code
    return page


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(render(template, **{"note": None, "links": [], "agree": None, "done": 0, "total": 0, **values}))


class _Headers:
    """Adds the headers that every response has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                if b"cache-control" not in {name for name, _ in message["headers"]}:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)

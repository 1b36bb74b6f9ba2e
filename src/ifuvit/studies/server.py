"""The web application of a study: pages for its raters by private links, and one for its owner.

Pages are rendered here and work without JavaScript; study.js adds keys, taps on pictures and dragging. An answer is an HTML form
that is posted, kept in the database before it is acknowledged, and acknowledged by the way to the next task. Every form
holds how many answers its task had when the page was made (`version`), so that an answer sent twice, or from an old page,
is told from a change of mind.
"""

import hmac
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ifuvit.errors import InputError
from ifuvit.studies.answers import (
    EXPORTS,
    check_entry,
    collect,
)
from ifuvit.studies.design import PICTURES, Rater, read_study
from ifuvit.studies.pages import paragraphs, render, static_file, view_task
from ifuvit.studies.posting import form_fields, read_form
from ifuvit.studies.progress import agreement_so_far, rater_progress
from ifuvit.studies.store import Closed, Outdated, Store

_STATIC = {"study.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}
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


class _Headers:
    """Adds the headers that every response has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                if b"cache-control" not in present:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def make_app(directory: Path, *, url: str = "") -> FastAPI:
    """The application that serves the study of a directory.

    Args:
        url: where raters reach it, for the links on the owner's page.

    Raises:
        InputError: no study, or a broken one.
    """
    study = read_study(directory)
    store = Store(directory)
    allowed = {
        rater.id: {name for task in rater.tasks for name in study.item(task.item).pictures} for rater in study.raters
    }
    static = {name: static_file(name) for name in _STATIC}
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(_Headers)
    app.state.store = store

    def rater_of(token: str) -> Rater:
        found = None
        for rater in study.raters:  # all of them, each in constant time: how long it takes tells nothing
            if _same(rater.token, token):
                found = rater
        if found is None:
            raise HTTPException(404, "This link is not known. Please check that you have all of it.")
        return found

    This = Annotated[Rater, Depends(rater_of)]

    def owner(token: str) -> None:
        if not _same(study.owner_token, token):
            raise HTTPException(404, "This link is not known. Please check that you have all of it.")

    # ------------------------------------------------------------------------------------------------------- raters

    @app.get("/r/{token}/")
    @app.get("/r/{token}")
    def start(request: Request, rater: This) -> Response:
        if not request.url.path.endswith("/"):
            return RedirectResponse(f"/r/{rater.token}/", 303)
        done, total = store.answered(rater.id), len(rater.tasks)
        if len(done) == total:
            return RedirectResponse(f"/r/{rater.token}/end", 303)
        begin = "Continue" if done else "Agree and begin"
        return _page(
            "text.html.j2",
            title=study.title,
            paragraphs=paragraphs(study.consent),
            links=[(begin, f"/r/{rater.token}/{_next(done, total, 0)}")],
            done=len(done),
            total=total,
        )

    @app.get("/r/{token}/end")
    def end(rater: This) -> Response:
        done, total = store.answered(rater.id), len(rater.tasks)
        left = total - len(done)
        thanks = "All your answers are saved. You can close this page, or go back and change an answer."
        some = f"{left} of {total} tasks are left. What you have answered is saved."
        return _page(
            "text.html.j2",
            title="Thank you" if not left else "Not quite finished",
            paragraphs=[some if left else thanks],
            links=[("Continue", f"/r/{rater.token}/{_next(done, total, 0)}")]
            if left
            else [("Look at my answers again", f"/r/{rater.token}/{total - 1}")],
            done=len(done),
            total=total,
        )

    @app.get("/r/{token}/pictures/{name}")
    def picture(name: str, rater: This) -> Response:
        if name not in allowed[rater.id]:
            raise HTTPException(404, "There is no such picture.")
        # The bytes alone: neither their date nor a tag made from it.
        content = (directory / PICTURES / name).read_bytes()
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    def task_number(number: str, rater: This) -> int:
        if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) < len(rater.tasks)):
            raise HTTPException(404, "There is no such task.")
        return int(number)

    Number = Annotated[int, Depends(task_number)]
    Fields = Annotated[dict[str, str], Depends(form_fields)]

    @app.get("/r/{token}/{number}")
    def task(number: Number, rater: This) -> Response:
        done, total = store.answered(rater.id), len(rater.tasks)
        view = view_task(
            study, rater, number, store.of_task(rater.id, number), lambda name: f"/r/{rater.token}/pictures/{name}"
        )
        following = f"/r/{rater.token}/{number + 1 if number + 1 < total else 'end'}"
        return _page("served_task.html.j2", view=view, done=len(done), total=total, following=following)

    @app.post("/r/{token}/{number}")
    def answer(
        number: Number,
        rater: This,
        fields: Fields,
    ) -> Response:
        try:
            entry, version = read_form(study, rater, number, fields)
            check_entry(study, entry)
        except InputError as error:
            raise HTTPException(422, f"This answer cannot be taken: {error}") from None
        try:
            store.add(entry, version=version)
        except Outdated:
            raise HTTPException(409, "This was answered before, or in another window. Nothing was changed.") from None
        except Closed:
            raise HTTPException(403, "The study is closed: no more answers are taken.") from None
        following = _next(store.answered(rater.id), len(rater.tasks), number + 1)
        return RedirectResponse(f"/r/{rater.token}/{'end' if following is None else following}", 303)

    # -------------------------------------------------------------------------------------------------------- owner

    @app.get("/owner/{token}", dependencies=[Depends(owner)])
    def to_progress() -> Response:
        return RedirectResponse(f"/owner/{study.owner_token}/", 303)

    @app.get("/owner/{token}/", dependencies=[Depends(owner)])
    def progress(request: Request) -> Response:
        answers = collect(study, store.entries())
        base = url or str(request.base_url).rstrip("/")
        rows = [{**rater_progress(study, rater, answers), "link": f"{base}/r/{rater.token}/"} for rater in study.raters]
        return _page(
            "owner.html.j2",
            title=f"{study.title}: progress",
            study=study,
            rows=rows,
            done=len(answers),
            total=sum(row["total"] for row in rows),
            agreement=agreement_so_far(study, answers),
            formats=list(EXPORTS),
            closed=store.closed,
        )

    @app.get("/owner/{token}/export/{format}", dependencies=[Depends(owner)])
    def export(format: str) -> Response:
        if format not in EXPORTS:
            raise HTTPException(404, "There is no such format.")
        name, write = EXPORTS[format]
        media = "text/csv" if format == "csv" else "application/json"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(write(study, collect(study, store.entries())), media_type=media, headers=disposition)

    @app.post("/owner/{token}/{action}", dependencies=[Depends(owner)])
    def close(action: str) -> Response:
        if action not in ("close", "open"):
            raise HTTPException(404, "There is no such page.")
        store.closed = action == "close"
        return RedirectResponse(f"/owner/{study.owner_token}/", 303)

    # ------------------------------------------------------------------------------------------------------ the rest

    @app.get("/static/{name}")
    def assets(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, "There is no such file.")
        return Response(static[name], media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: StarletteHTTPException) -> Response:
        known = isinstance(error, HTTPException) and error.status_code != 405
        text = str(error.detail) if known else "There is no such page. Please use the link that you were given."
        links = []
        if known and error.status_code in (409, 422) and request.method == "POST":
            here = request.url.path
            links = [("Continue", f"{here.rsplit('/', 1)[0]}/"), ("Back to the task", here)]
        response = _page("text.html.j2", title=_TITLES.get(error.status_code, "Sorry"), paragraphs=[text], links=links)
        response.status_code = error.status_code
        return response

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        return refused(request, HTTPException(422, "This cannot be taken."))

    return app


_TITLES = {403: "Closed", 404: "Not found", 409: "Answered already", 422: "Not taken"}


def _page(template: str, **values: Any) -> HTMLResponse:
    defaults = {"title": "", "links": [], "total": 0, "done": 0}
    return HTMLResponse(render(template, **{**defaults, **values}))


def _same(secret: str, given: str) -> bool:
    return hmac.compare_digest(secret.encode(), given.encode("utf-8", "surrogateescape"))


def _next(done: set[int], total: int, start: int) -> int | None:
    """The first task without an answer from `start` on, then from the beginning; None where all have one."""
    return next((number for number in (*range(start, total), *range(start)) if number not in done), None)

"""The page's routes: thin callers of what the API's routes call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from fastapi.routing import APIRoute

from tunesmith.data.source import SUFFIXES
from tunesmith.exec.queue.control import list_jobs
from tunesmith.serve import files as api_files
from tunesmith.serve import models as api_models
from tunesmith.serve.errors import ApiError, not_found
from tunesmith.serve.fine_tuning import find, list_checkpoints
from tunesmith.serve.keys import Key, find_key
from tunesmith.serve.results import csv_of
from tunesmith.serve.server import Here, Server
from tunesmith.serve.sessions import COOKIE, SECONDS, close_session, key_of_session, open_session
from tunesmith.serve.tuned import find_tuned
from tunesmith.web.checked import Checks
from tunesmith.web.live import OVER, WATCHERS, Watch, told
from tunesmith.web.rendered import HEADERS, KINDS, content, page
from tunesmith.web.shown import in_bytes, job_of, summary

JOBS = 50  # that the list shows
MOST_OVER = 1000  # jobs that are over, of which it is remembered how they are shown
FILES = 200
MONTH = "public, max-age=2592000, immutable"


class LoginNeeded(Exception):  # noqa: N818  a signal between a route and its kind
    """Whoever asks has no session."""


class PageRoute(APIRoute):
    """A route for people: who has no session is led to the login, and an error is a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except LoginNeeded:
                there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/login?next={quote(there, safe='')}", 303, headers=HEADERS)
            except ApiError as error:
                key = getattr(request.state, "key", None)
                values = {"title": error.status, "status": error.status, "sentence": error.message, "place": ""}
                return HTMLResponse(page("sorry.html.jinja", key=key, **values), error.status, HEADERS)

        return handled


router = APIRouter(include_in_schema=False, route_class=PageRoute)


def visitor(request: Request, here: Here) -> Key:
    """Whose session it is.

    Raises:
        LoginNeeded: it is nobody's.
    """
    token = request.cookies.get(COOKIE)
    key = key_of_session(here.stores.records, token) if token else None
    if key is None:
        raise LoginNeeded
    request.state.key = key
    return key


Visitor = Annotated[Key, Depends(visitor)]


def checks_of(request: Request) -> Checks:
    """What looks at files."""
    return request.app.state.checks


Looks = Annotated[Checks, Depends(checks_of)]


def add_pages(app: FastAPI) -> None:
    """Put the page in front of an API."""
    here: Server = app.state.server
    app.state.checks = Checks(here.stores, here.folder.parent / "checks")
    app.state.watchers, app.state.over = 0, dict[str, dict[str, Any]]()
    app.include_router(router)


def shown(template: str, place: str, title: str, key: Key, **values: Any) -> HTMLResponse:
    """A page of a visitor."""
    return HTMLResponse(page(template, place=place, title=title, key=key, **values), headers=HEADERS)


# Login


@router.get("/login")
def login(next: str = "/") -> Response:
    """Ask for a key."""
    return HTMLResponse(page("login.html.jinja", title="Log in", next=next, said=""), headers=HEADERS)


@router.post("/login")
def log_in(request: Request, here: Here, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/") -> Any:
    """Open a session."""
    found = find_key(here.stores.records, key.strip())
    if found is None:
        said = "No such key. It may have been revoked; `tunesmith keys create NAME` makes another."
        return HTMLResponse(page("login.html.jinja", title="Log in", next=next, said=said), 403, HEADERS)
    local = next.startswith("/") and not next.startswith(("//", "/\\"))
    answer = RedirectResponse(next if local else "/", 303, headers=HEADERS)
    secure = request.url.scheme == "https"
    token = open_session(here.stores.records, found)
    answer.set_cookie(COOKIE, token, max_age=SECONDS, httponly=True, samesite="lax", secure=secure)
    return answer


@router.post("/logout")
def log_out(request: Request, here: Here) -> Any:
    """End the session."""
    if token := request.cookies.get(COOKIE):
        close_session(here.stores.records, token)
    answer = RedirectResponse("/login", 303, headers=HEADERS)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/static/{name:path}")
def static_file(name: str) -> Response:
    """A style, a script, a picture."""
    ending = name.rpartition(".")[2]
    try:
        if ".." in name or ending not in KINDS:
            raise OSError
        body = content(name)
    except OSError:
        raise not_found(f"There is no {name} here.") from None
    return Response(body, media_type=KINDS[ending], headers={"Cache-Control": MONTH})


# Jobs


def _jobs(here: Server, key: Key, over: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The last jobs; of those that are over, what they are shown as is in `over`, or goes there."""
    found = [job for job in list_jobs(here.stores.records, key.project, most=10 * JOBS) if job.details.get("api")]
    names = {file["id"]: file["filename"] for file in _files(here, key)}
    jobs: list[dict[str, Any]] = []
    for job in found[:JOBS]:
        if job.state not in OVER:
            jobs.append(job_of(here, job, names))
            continue
        if len(over) > MOST_OVER:
            over.clear()
        known = f"{job.id} {job.ended}"
        over[known] = over.get(known) or job_of(here, job, names)
        jobs.append(over[known])
    return {"jobs": jobs, "more": len(found) > JOBS}


def _files(here: Server, key: Key) -> list[dict[str, Any]]:
    return api_files.list_files(here, key, limit=10_000)["data"]  # type: ignore[return-value]


@router.get("/")
def jobs(request: Request, here: Here, key: Visitor) -> Response:
    """All jobs."""
    return shown("jobs.html.jinja", "Jobs", "Jobs", key, **_jobs(here, key, request.app.state.over))


@router.get("/jobs/rows")
def job_rows(request: Request, here: Here, key: Visitor) -> Response:
    """The rows of the list, to be looked at again and again."""
    return HTMLResponse(page("jobs.rows.html.jinja", **_jobs(here, key, request.app.state.over)), headers=HEADERS)


@router.get("/jobs/{id}")
def job(here: Here, key: Visitor, id: str) -> Response:
    """One job."""
    names = {file["id"]: file["filename"] for file in _files(here, key)}
    one = job_of(here, find(here, key.project, id), names)
    checkpoints = list_checkpoints(here, key, id, None, 100)["data"]
    return shown("job.html.jinja", "Jobs", one["name"], key, job=one, checkpoints=checkpoints)


@router.get("/jobs/{id}/metrics.csv")
def metrics(here: Here, key: Visitor, id: str) -> Response:
    """The metrics of each step, as a table."""
    name = f'attachment; filename="{find(here, key.project, id).id}.csv"'
    return Response(csv_of(here.stores.records, id), media_type="text/csv", headers={"Content-Disposition": name})


class Watched(StreamingResponse):
    """Counts a watcher, however it ends."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send what is new."""
        state = scope["app"].state
        state.watchers += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            state.watchers -= 1


@router.get("/jobs/{id}/live")
def live(request: Request, here: Here, key: Visitor, id: str, after: int = 0) -> Response:
    """A job as it goes on."""
    find(here, key.project, id)
    if request.app.state.watchers >= WATCHERS:
        raise ApiError(503, f"{WATCHERS} pages watch jobs already.", headers={"Retry-After": "5"})
    token = request.cookies[COOKIE]
    watch = Watch(here, key, id, after, page)
    may = partial(_is_open, here, token)
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    return Watched(told(watch, may), media_type="text/event-stream", headers=headers)


def _is_open(here: Server, token: str) -> bool:
    return not here.ending.is_set() and key_of_session(here.stores.records, token) is not None


# Models and chat


def _models(here: Server, key: Key) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    loaded = set(here.engines.models)
    for model in api_models.list_models(here, key)["data"]:
        tuned = None if model["id"] in here.bases.table else find_tuned(here, key.project, model["id"])
        more = {"job": tuned.job.id, "root": tuned.job.details["root"]} if tuned else {"job": "", "root": ""}
        mine = tuned is not None and tuned.job.project == key.project
        found.append({**model, **more, "mine": mine, "loaded": model["id"] in loaded})
    return sorted(found, key=lambda model: -model["created"])


@router.get("/models")
def models(here: Here, key: Visitor) -> Response:
    """All models."""
    return shown("models.html.jinja", "Models", "Models", key, models=_models(here, key))


@router.get("/chat")
def chat(here: Here, key: Visitor, a: str = "", b: str = "") -> Response:
    """Talk to a model, or to two."""
    found = _models(here, key)
    names = {model["id"] for model in found}
    found += [{"id": name} for name in dict.fromkeys((a, b)) if name and name not in names and _may(here, key, name)]
    first = found[0]["id"] if found else ""
    beside = found[0]["root"] if found and not a else ""
    return shown("chat.html.jinja", "Chat", "Chat", key, models=found, a=a or first, b=b or beside)


def _may(here: Server, key: Key, name: str) -> bool:
    return find_tuned(here, key.project, name) is not None


# Files


def _found(here: Server, looks: Checks, file: Any, base: str) -> dict[str, Any] | None:
    """What was found in a file of the records; None while it is looked at."""
    ending = "." + file.name.rpartition(".")[2].lower()
    name = file.name if ending in SUFFIXES else f"{file.name}.jsonl"
    return looks.found(file.sha256, name, here.bases.table.get(base) or next(iter(here.bases.table.values())))


def _root(here: Server, key: Key, name: str) -> str:
    """The base of a model that may be tuned; the first one of the server for what is none."""
    if name in here.bases.table:
        return name
    tuned = find_tuned(here, key.project, name) if name else None
    root = tuned.job.details["root"] if tuned else ""
    return root if root in here.bases.table else next(iter(here.bases.table))


@router.get("/files")
def files(here: Here, key: Visitor, looks: Looks) -> Response:
    """All files."""
    found = _files(here, key)[:FILES]
    for file in found:
        file["size"] = in_bytes(file["bytes"])
        file["summary"] = ""
        if file["purpose"] == "fine-tune":
            seen = _found(here, looks, api_files.find_file(here.stores, key.project, file["id"]), "")
            file["summary"] = None if seen is None else summary(seen)
    return shown("files.html.jinja", "Files", "Files", key, files=found)


@router.get("/files/{id}")
def file(here: Here, key: Visitor, looks: Looks, id: str, base: str = "") -> Response:
    """One file, and what was found in it."""
    row = api_files.find_file(here.stores, key.project, id)
    described = {**api_files.describe(row), "size": in_bytes(row.bytes)}
    trainable = [model["id"] for model in _models(here, key) if model["id"] in here.bases.table or model["mine"]]
    base = base if base in trainable else next(iter(here.bases.table))
    others = [one for one in _files(here, key) if one["id"] != id and one["purpose"] == "fine-tune"]
    seen = _found(here, looks, row, _root(here, key, base))
    values = {"file": described, "trainable": trainable, "base": base, "others": others, "found": seen}
    return shown("file.html.jinja", "Files", described["filename"], key, **values)


@router.get("/files/{id}/found")
def found_in(here: Here, key: Visitor, looks: Looks, id: str, whole: bool = True, base: str = "") -> Response:
    """What was found in a file, once it is known; 202 before."""
    seen = _found(here, looks, api_files.find_file(here.stores, key.project, id), _root(here, key, base))
    if seen is None:
        return Response(status_code=202, headers=HEADERS)
    text = page("found.html.jinja", found=seen) if whole else summary(seen)
    return HTMLResponse(text, headers=HEADERS)


@router.get("/files/{id}/content")
def file_content(here: Here, key: Visitor, id: str) -> Response:
    """What is in a file."""
    return api_files.content(here, key, id)

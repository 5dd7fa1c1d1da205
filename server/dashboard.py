"""The web page of a coordinator: what its study is doing, and for operators approve, pause, resume and abort.

A port of its own, never the hospitals'. TLS always; nobody sees anything without a login; the page loads nothing from
elsewhere and runs no script but its own (Content-Security-Policy). What changes something needs the operator's role,
the session's token in a header, the page's own origin, and the study's name typed once more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from common.errors import FedradError
from common.version import VERSION
from server.control import Wish
from server.dashboard_view import view
from server.sessions import LoginLimit, Session, Sessions
from server.tls_server import Receive, Scope, Send
from server.users import Users
from server.watch import Watch

COOKIE = "__Host-fedrad"
MAX_BODY_BYTES = 4096
ASSETS = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "dashboard_curves.js": "text/javascript",
          "dashboard_actions.js": "text/javascript", "icon.svg": "image/svg+xml"}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a form says no origin
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cache-control", b"no-store"),
]
WISHES: dict[str, Wish] = {"pause": "pause", "resume": "run", "abort": "abort"}


class Dashboard:
    """The ASGI application.

    Parameters
    ----------
    watch : Watch
    users : Users
    """

    def __init__(self, watch: Watch, users: Users) -> None:
        self._watch = watch
        self._users = users
        self._sessions = Sessions()
        self._limit = LoginLimit()
        self._hashing = CapacityLimiter(2)  # scrypt takes 32 MiB each
        self._pages = Environment(
            loader=PackageLoader("server"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/login", self._login_page),
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
                Route("/api/state", self._state),
                Route("/api/control", self._control, methods=["POST"]),
                Route("/api/approve", self._approve, methods=["POST"]),
                Route("/static/{name}", _asset),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every answer carries the headers that bind the browser."""

        async def send_bound(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self._app(scope, receive, send_bound)

    def _session(self, request: Request) -> Session | None:
        """The living session, with the role that the users file says now."""
        session = self._sessions.of(request.cookies.get(COOKIE, ""))
        if session is None:
            return None
        user = self._users.read().get(session.user)
        if user is None:
            return None
        session.role = user.role
        return session

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return RedirectResponse("/login", 303)
        page = self._pages.get_template("dashboard.html.j2")
        return HTMLResponse(page.render(user=session.user, role=session.role, csrf=session.csrf, version=VERSION))

    async def _login_page(self, request: Request) -> Response:
        return self._login_answer("", 200)

    def _login_answer(self, fault: str, status: int, headers: dict[str, str] | None = None) -> Response:
        page = self._pages.get_template("login.html.j2")
        return HTMLResponse(page.render(fault=fault, version=VERSION), status, headers=headers)

    async def _login(self, request: Request) -> Response:
        body = await _body(request)
        if body is None or not _same_origin(request):
            return self._login_answer("The request did not come from this page.", 403)
        form = parse_qs(body.decode(errors="replace"))
        name, password = (form.get(key, [""])[0][:200] for key in ("name", "password"))
        keys = (f"name {name}", f"address {request.client.host if request.client else ''}")
        wait = self._limit.wait_s(*keys)
        if wait > 0:
            text = f"Too many attempts. Try again in {wait:.0f} seconds."
            return self._login_answer(text, 429, {"retry-after": f"{wait:.0f}"})
        role = await to_thread.run_sync(self._users.check, name, password, limiter=self._hashing)
        if role is None:
            self._limit.failed(*keys)
            return self._login_answer("Name or password is wrong.", 401)
        self._limit.passed(*keys)
        answer = RedirectResponse("/", 303)
        token = self._sessions.begin(name, role)
        answer.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    async def _logout(self, request: Request) -> Response:
        if not _same_origin(request):
            return _fault(403, "The request did not come from this page.")
        self._sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    async def _state(self, request: Request) -> Response:
        if self._session(request) is None:
            return _fault(401, "Please log in again.")
        try:
            return JSONResponse(await to_thread.run_sync(view, self._watch))
        except FedradError as error:
            return _fault(500, str(error))

    async def _control(self, request: Request) -> Response:
        """Pause, resume or abort the study that is shown."""
        asked = await self._operator(request)
        if isinstance(asked, Response):
            return asked
        session, values = asked
        run = self._watch.run
        wish = WISHES.get(values.get("action", ""))
        if run is None or wish is None or values.get("digest") != run.digest:
            return _fault(409, "The coordinator is at another study now; look again.")
        if values.get("confirm") != run.study.name:
            return _fault(400, "The name is not the study's.")
        try:
            await to_thread.run_sync(lambda: run.control.give(wish, by=session.user, journal=run.journal))
        except FedradError as error:
            return _fault(409, str(error))
        return JSONResponse({"done": True})

    async def _approve(self, request: Request) -> Response:
        """Let a study of the queue start."""
        asked = await self._operator(request)
        if isinstance(asked, Response):
            return asked
        session, values = asked
        found = [entry for entry in self._watch.queued() if entry.digest and entry.digest == values.get("digest")]
        if not found:
            return _fault(409, "This study is not in the queue any more; its file may have changed.")
        if values.get("confirm") != found[0].name:
            return _fault(400, "The name is not the study's.")
        try:
            self._watch.approve(found[0].digest, by=session.user)
        except FedradError as error:
            return _fault(409, str(error))
        return JSONResponse({"done": True})

    async def _operator(self, request: Request) -> tuple[Session, dict[str, str]] | Response:
        """Session and values of a request that may change something, or what is answered instead."""
        session = self._session(request)
        if session is None:
            return _fault(401, "Please log in again.")
        if not _same_origin(request) or request.headers.get("x-csrf-token") != session.csrf:
            return _fault(403, "The request did not come from this page.")
        if session.role != "operator":
            return _fault(403, "Only an operator may do this.")
        body = await _body(request)
        try:
            values = json.loads(body or b"")
        except ValueError:
            values = None
        if not isinstance(values, dict):
            return _fault(400, "The request cannot be read.")
        return session, {str(key): str(value) for key, value in values.items()}


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        return _fault(404, "Not found.")
    return Response((Path(__file__).parent / "templates" / name).read_bytes(), media_type=ASSETS[name])


async def _body(request: Request) -> bytes | None:
    """The body; None where it is too large."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            return None
    return bytes(content)


def _same_origin(request: Request) -> bool:
    """True where the browser says that the page itself asks: a form of another site cannot say so."""
    return request.headers.get("origin") == f"https://{request.headers.get('host', '')}"


def _fault(status: int, text: str) -> Response:
    return JSONResponse({"fault": text}, status)

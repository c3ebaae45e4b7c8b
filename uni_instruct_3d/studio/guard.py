"""Who may ask the server for what: this very page, and nothing but what the page needs.

A server on 127.0.0.1 is not private: every page that is open in the same browser can send to it. So requests must name
this address (a foreign name that resolves to it does not), come from this page, and want one of a few routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

#: The page's own routes, and those of Gradio that a page without uploads and without files of Gradio's needs.
EXACT = {
    "/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt", "/gradio_api/info",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/reset", "/gradio_api/cancel",
    "/gradio_api/startup-events", "/gradio_api/app_id",
}  # fmt: skip
BELOW = ("/files/", "/view/", "/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
#: Bytes that a request may send.
LONGEST_BODY = 200_000
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware around the whole server. hosts: what a Host header may say."""

    def __init__(self, app: Callable, hosts: list[str]) -> None:
        self.app, self.hosts = app, set(hosts)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no page of ours opens a web socket
        refused = self.reason(scope)
        if refused:
            status, text = refused
            return await _say(send, status, text)
        return await self.app(scope, _Limited(receive), _with_headers(send))

    def reason(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused; None for one that is not."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self.hosts:
            return 403, "this server answers under its own address only"
        own = {f"http://{host}" for host in self.hosts}
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if scope["method"] not in ("GET", "HEAD"):
            if origin not in own:
                return 403, "only this server's own page may ask for that"
        elif origin is not None and origin not in own:
            return 403, "another page may not read this"
        elif site in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return 403, "another page may not show this"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            return 413, "that is more than any request of the page"
        path = scope["path"]
        if path not in EXACT and not (path.startswith(BELOW) and "/../" not in path):
            return 404, "there is nothing here"
        return None


class _Limited:
    """Receives at most so many bytes, whatever the request said of its length."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.left = receive, LONGEST_BODY

    async def __call__(self) -> dict[str, Any]:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        return message if self.left >= 0 else {"type": "http.disconnect"}


def _with_headers(send: Send) -> Send:
    async def send_on(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in ours]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return send_on


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

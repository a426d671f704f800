"""Explore a trained generator in the browser.

    python -m tools.demo RUN                                 then open http://127.0.0.1:8000
    python -m tools.demo RUN --port 8080
    python -m tools.demo hf:user/name                        one that was shared

RUN is a run's folder or its generator/ folder alone. The page draws samples by seed, class or attributes and
truncation, mixes two seeds, mixes styles by layers, moves along directions, and saves pictures, latents and a short
animation; runs that make pictures of pictures translate those that you choose. It needs Gradio (pip install -r
requirements-extras.txt), loads nothing from the network, and is for this machine alone unless --host says otherwise.
Ctrl-C ends it.
"""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from errors import UserError, cli
from tools import tool_parser
from tools.app import MAX_UPLOAD, build, look, opened_for_page
from tools.common import add_device_flag, add_generator_flags, positive, title_of, warn
from tools.tabs import gradio
from training.device import choose_device

LOCAL = ("127.0.0.1", "localhost", "::1")
TRIES = 20  # ports
# A browser loads nothing but what this server has.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; media-src 'self' data: blob:"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.demo", __doc__)
    add_generator_flags(p)
    p.add_argument(
        "--port", type=positive, default=8000, help="the first free one from here on is taken [8000]"
    )
    about = "address to listen at; 0.0.0.0 lets others in the network use the page [127.0.0.1]"
    p.add_argument("--host", default="127.0.0.1", help=about)
    add_device_flag(p)
    return p


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at a port, or at the next free one; UserError where there is none, or no such address."""
    if port > 65535:
        raise UserError(f"--port {port}: give 1 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: {getattr(error, 'strerror', None) or error}") from None
    for candidate in range(port, min(port + TRIES, 65536)):
        found = socket.socket(family)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, candidate))
            found.listen(128)
        except OSError as error:
            found.close()
            reason = error.strerror or str(error)
            continue
        if candidate != port:
            print(f"port {port} is in use: taking {candidate}")
        return found
    raise UserError(f"--port {port}: none of {port} to {candidate} can be had at {host} ({reason})")


class Guarded:
    """An ASGI app whose pages load nothing from elsewhere, and that takes files only where it is said to."""

    def __init__(self, app: Any, uploads: bool) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: dict, receive: Callable, send: Callable[[dict], Awaitable[None]]) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].rstrip("/")

        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message["headers"], *headers, (b"x-content-type-options", b"nosniff")]
            await send(message)

        if not self.uploads and path.endswith("/upload"):
            await guarded({"type": "http.response.start", "status": 404, "headers": []})
            return await guarded({"type": "http.response.body", "body": b"this page takes no files"})
        return await self.app(scope, receive, guarded)


def app_of(page: Any, *, uploads: bool) -> Guarded:
    """The ASGI app of a page."""
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    limits = {"max_file_size": MAX_UPLOAD, "allowed_paths": [], "show_error": False, "ssr_mode": False}
    app = gradio().mount_gradio_app(
        app, page, path="/", enable_monitoring=False, pwa=False, **limits, **look()
    )
    return Guarded(app, uploads)


def serve(app: Any, listener: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until a stop signal, or until the listener's server is told to end."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    server = uvicorn.Server(config)
    ready()
    server.run(sockets=[listener])


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, build its page, serve it."""
    args = parser().parse_args(argv)
    gradio()
    source = opened_for_page(args.run, args.weights, choose_device(args.device), args.checkpoint)
    with (
        tempfile.TemporaryDirectory(prefix="gan-page-") as folder,
        listening(args.host, args.port) as listener,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder  # pictures that are shown, for an hour
        page = build(source, title_of(args.run))
        if args.host not in LOCAL:
            warn(f"--host {args.host}: everyone who reaches this machine can use the page")
        print(f"open {address(listener)}  (Ctrl-C ends)", flush=True)
        serve(app_of(page, uploads=hasattr(source, "translator")), listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())

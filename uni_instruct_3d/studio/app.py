"""The server: the page, files of runs, the 3D view, behind the guard."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from ..pipeline.stages import DEFAULT_SET
from .guard import Guard
from .jobs import Queue
from .library import ZIP, Library, obj_zip

#: Suffix -> how a browser is told to take it; anything else is saved and never shown.
KINDS = {
    ".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif",
    ".html": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8", ".glb": "model/gltf-binary",
}  # fmt: skip


def make_app(library: Library, queue: Queue, port: int, config_set: str = DEFAULT_SET) -> ASGIApp:
    """Everything that answers at 127.0.0.1:`port`; looks after the queue while it runs."""
    for key in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_MCP_SERVER"):
        os.environ[key] = "False"  # read when it is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "uni-instruct-3d-studio"))
    import gradio as gr

    from .page import LOOKS, build_page

    end = threading.Event()

    @asynccontextmanager
    async def look_after_the_queue(_: FastAPI):
        worker = threading.Thread(target=queue.run_forever, args=(end,), daemon=True)
        worker.start()
        yield
        end.set()

    app = FastAPI(lifespan=look_after_the_queue, docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, library)
    page = build_page(library, queue, config_set)
    gr.mount_gradio_app(app, page, "/", server_name="127.0.0.1", server_port=port, footer_links=[], **LOOKS)
    return Guard(app, [f"127.0.0.1:{port}", f"localhost:{port}"])


def add_routes(app: FastAPI, library: Library) -> None:
    """Files of runs and their 3D view."""

    @app.api_route("/files/{name:path}/{file}", methods=["GET", "HEAD"])
    def file(name: str, file: str) -> Response:
        try:
            if file == ZIP:
                packed = obj_zip(library.find(name).files)
                return Response(packed, media_type="application/zip") if packed else _missing(f"no {ZIP}")
            path = library.file(name, file)
        except ValueError as error:
            return _missing(str(error))
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            return FileResponse(path, media_type="application/octet-stream", filename=path.name)
        return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})

    @app.get("/view/{name:path}/{file}")
    def view(name: str, file: str) -> Response:
        from ..report.page import viewer_page

        try:
            path = library.file(name, file)
            if path.suffix.lower() != ".glb":
                return _missing("only .glb files are shown")
            return HTMLResponse(viewer_page(path))
        except ValueError as error:
            return _missing(str(error))


def _missing(text: str) -> Response:
    return PlainTextResponse(text, status_code=404)

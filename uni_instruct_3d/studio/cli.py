"""Open the page in the browser: ``bash scripts/studio.sh``, or ``python scripts/studio.py`` where .venv is set up."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import threading
import time
import webbrowser
from pathlib import Path

from filelock import FileLock, Timeout

from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.core.ranges import argument, whole

from ..command import COUNT, run_command
from ..pipeline.stages import CONFIG_SETS, DEFAULT_SET

PORT = argument(whole(least=1, most=65535))
ADDRESS = "127.0.0.1"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="outputs", help="folder of all runs; nothing outside it is served")
    parser.add_argument("--port", type=PORT, help="port on this machine's own address; 7860 or the next free one")
    parser.add_argument("--jobs", type=COUNT, help="runs at a time; one per GPU, or one per core without a GPU")
    parser.add_argument("--config-set", default=DEFAULT_SET, choices=list(CONFIG_SETS), help="teacher and sizes")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0 after Ctrl-C; 2 after one line about what the user can mend."""
    args = parse_arguments(argv)
    return run_command("studio", lambda: open_page(args))


def open_page(args: argparse.Namespace) -> None:
    """Serve the folder until Ctrl-C. Raises ValueError where it is open already, or cannot be written."""
    state = require_writable("--out", Path(args.out).expanduser() / ".studio").resolve()
    note = state / "address"
    try:
        with FileLock(state / "lock", timeout=0), take_port(args.port) as place:
            serve(state.parent, place, args.jobs, args.config_set, note, browser=not args.no_browser)
    except Timeout as error:
        where = note.read_text(encoding="utf-8").strip() if note.is_file() else "another address"
        raise ValueError(f"{state.parent} is open already, at {where}") from error


def serve(out: Path, place: socket.socket, jobs: int | None, config_set: str, note: Path, browser: bool) -> None:
    """Answer until Ctrl-C. place: listens already."""
    import uvicorn

    from .app import make_app
    from .jobs import Queue, slots
    from .library import Library

    port = place.getsockname()[1]
    library = Library(out)
    queue = Queue(library, slots(jobs))
    app = make_app(library, queue, port, config_set)
    address = f"http://{ADDRESS}:{port}"
    note.write_text(address + "\n", encoding="utf-8")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            time.sleep(0.05)
        many = f"{len(queue.slots)} at a time, runs in {out}"
        print(f"studio: {address}  ({many}; Ctrl-C ends the page, not the runs)", flush=True)
        if browser:
            webbrowser.open(address)

    threading.Thread(target=announce, daemon=True).start()
    server.run(sockets=[place])


def take_port(wanted: int | None) -> socket.socket:
    """A socket that listens at the wanted port, or at the first free one from 7860 on: nobody else can take it then.

    Raises:
        ValueError: the wanted one is taken, or is not for this user.
    """
    for port in [wanted] if wanted is not None else range(7860, 7960):
        place = socket.socket()
        if os.name == "posix":  # a port whose last connections are still closing; elsewhere this would share it
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((ADDRESS, port))
            place.listen()
            return place
        except OSError as error:
            place.close()
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    if wanted is None:
        raise ValueError("no free port from 7860 to 7959")
    raise ValueError(f"--port {wanted} {reason}; choose another, or none")

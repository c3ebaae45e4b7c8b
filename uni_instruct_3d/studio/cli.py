"""Open the page in the browser: ``bash scripts/studio.sh``, or ``python scripts/studio.py`` where .venv is set up."""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

from filelock import FileLock, Timeout

from ..pipeline.stages import CONFIG_SETS

ADDRESS = "127.0.0.1"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="outputs", help="folder of all runs; nothing outside it is served")
    parser.add_argument("--port", type=int, help="port on this machine's own address; 7860 or the next free one")
    parser.add_argument("--jobs", type=int, help="runs at a time; one per GPU, or one per core without a GPU")
    parser.add_argument("--config-set", default="shapes", choices=list(CONFIG_SETS), help="teacher and sizes")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0 after Ctrl-C; 2 after one line about what the user can mend."""
    args = parse_arguments(argv)
    out = Path(args.out).expanduser().resolve()
    try:
        port = free_port(args.port)
        (out / ".studio").mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"studio: {error}", file=sys.stderr)
        return 2
    lock = FileLock(out / ".studio" / "lock")
    note = out / ".studio" / "address"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        where = note.read_text(encoding="utf-8").strip() if note.is_file() else "another address"
        print(f"studio: {out} is open already, at {where}", file=sys.stderr)
        return 2
    with lock:
        try:
            serve(out, port, args.jobs, args.config_set, note, browser=not args.no_browser)
        except ValueError as error:
            print(f"studio: {error}", file=sys.stderr)
            return 2
    return 0


def serve(out: Path, port: int, jobs: int | None, config_set: str, note: Path, browser: bool) -> None:
    """Answer until Ctrl-C. Raises ValueError for a number of jobs below one."""
    import uvicorn

    from .app import make_app
    from .jobs import Queue, slots
    from .library import Library

    library = Library(out)
    queue = Queue(library, slots(jobs))
    app = make_app(library, queue, port, config_set)
    address = f"http://{ADDRESS}:{port}"
    note.write_text(address + "\n", encoding="utf-8")
    config = uvicorn.Config(app, host=ADDRESS, port=port, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            time.sleep(0.05)
        many = f"{len(queue.slots)} at a time, runs in {out}"
        print(f"studio: {address}  ({many}; Ctrl-C ends the page, not the runs)", flush=True)
        if browser:
            webbrowser.open(address)

    threading.Thread(target=announce, daemon=True).start()
    server.run()


def free_port(wanted: int | None) -> int:
    """A port that nobody listens at: the wanted one, or the first free one from 7860 on.

    Raises:
        ValueError: the wanted one is taken, or is no port.
    """
    for port in [wanted] if wanted is not None else range(7860, 7960):
        if not 0 < port < 65536:
            raise ValueError(f"--port {port} must be from 1 to 65535")
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, port)):
                return port
    raise ValueError(
        f"--port {wanted} is taken; choose another, or none" if wanted else "no free port from 7860 to 7959"
    )

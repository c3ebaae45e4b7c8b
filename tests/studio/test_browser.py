"""The page driven in a real browser: the issue's own story, with real runs of the built-in teacher."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Where screenshots are kept, for the documents; nowhere by default.
PICTURES = os.environ.get("STUDIO_PICTURES")
#: Seconds from the button to the first picture of something on two free cores; STUDIO_PATIENCE times as long on a
#: machine that has other work, and for everything else that the test waits for.
FIRST_PICTURE = 30
PATIENCE = float(os.environ.get("STUDIO_PATIENCE", "1"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed; the page was not driven by a browser"),
]


class Server:
    """The studio in a process of its own."""

    def __init__(self, script: Path, out: Path, port: int | None = None) -> None:
        command = [sys.executable, str(script), "--out", str(out), "--jobs", "1", "--no-browser"]
        self.process = subprocess.Popen(
            command if port is None else [*command, "--port", str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("studio: http://127.0.0.1:"), line
        self.address = line.split()[1]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        """As a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        made.close()


def look(page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def opened(browser, width: int = 1360, height: int = 1000):
    """A window of its own, without what other windows remember."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(30_000 * PATIENCE)
    return page


def come_back(page, address: str) -> None:
    """To a server that was away: a window that was open loads itself again when it is back, which breaks off what was
    asked for at that moment."""
    from playwright.sync_api import Error

    try:
        page.goto(address)
    except Error as error:
        if "ERR_ABORTED" not in error.message:
            raise
        page.goto(address)


def shows_something(page, address: str) -> bool:
    """The picture on the page is not all of one colour."""
    source = page.get_attribute("#preview img", "src")
    with Image.open(io.BytesIO(page.request.get(address + source).body())) as picture:
        darkest, brightest = picture.convert("L").getextrema()
    return brightest - darkest > 40


def wait_for(page, state: str, seconds: float) -> None:
    page.wait_for_selector(f"#head [data-state={state}]", timeout=1000 * seconds * PATIENCE)


def checked(glb: Path) -> None:
    """By Khronos's validator where it is installed, else by trimesh."""
    validator = ["node", str(ROOT / "scripts" / "check_gltf.js")]
    if shutil.which("node") and subprocess.run(validator, capture_output=True).returncode == 0:
        done = subprocess.run([*validator, str(glb)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    else:
        import trimesh

        assert len(trimesh.load(glb, force="mesh").faces) > 100


@pytest.mark.parametrize("script", ["tests/studio/light_studio.py", "scripts/studio.py"], ids=["light", "whole"])
def test_from_a_prompt_to_a_file_with_a_stop_a_reload_and_a_killed_server(script, browser, tmp_path):
    """Once with a job that trains nothing, once with a whole run of quality fast."""
    out = tmp_path / "outputs"
    server = Server(ROOT / script, out)
    port = server.port
    try:
        page = opened(browser)
        outside, errors = [], []
        page.on("request", lambda request: outside.append(request.url) if not _ours(request.url, port) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address)
        page.fill("#prompt textarea", "a red mugg")
        page.wait_for_function("document.querySelector('#warning').innerText.includes('mugg (near: mug)')")
        look(page, "warning")
        page.fill("#prompt textarea", "a red mug")
        page.wait_for_function("!document.querySelector('#warning').innerText.includes('mugg')")
        page.check("#quality input[value=fast]")
        page.click("#make")
        pressed = time.monotonic()
        page.wait_for_selector("#preview img", timeout=1000 * FIRST_PICTURE * PATIENCE)
        print(f"first picture, of nothing yet, {time.monotonic() - pressed:.1f} s after the button")
        while not shows_something(page, server.address):
            assert time.monotonic() - pressed < FIRST_PICTURE * PATIENCE, "no picture of something yet"
            page.wait_for_timeout(200)
        print(f"first picture of something {time.monotonic() - pressed:.1f} s after the button")
        (run,) = (path for path in out.iterdir() if path.name.startswith("a-red-mug-fast"))
        assert page.url.endswith(f"/?run={run.name}")
        page.reload()
        wait_for(page, "running", 20)
        assert page.is_enabled("#stop") and "left of nerf" in page.inner_text("#progress")
        look(page, "running")
        page.click("#stop")
        wait_for(page, "stopped", 30)
        assert (run / "nerf" / "ckpts" / "last.ckpt").is_file()
        step = _step(page)
        assert 0 < step < 200 or "light" in script
        page.reload()
        wait_for(page, "stopped", 20)
        look(page, "stopped")
        page.click("#continue")
        wait_for(page, "running", 60)
        server.kill()  # the run goes on
        server = Server(ROOT / script, out, port)
        come_back(page, f"{server.address}/?run={run.name}")
        wait_for(page, "running", 30)
        page.wait_for_function(
            "least => parseInt(document.querySelector('#progress').innerText.match(/(\\d+) of/)?.[1] ?? 1e9) > least",
            arg=step, timeout=60_000 * PATIENCE,
        )  # fmt: skip
        (run / "hurry").touch()  # for the job that trains nothing
        page.wait_for_selector("#results iframe", timeout=600_000 * PATIENCE)
        with page.expect_download() as download:
            page.click("#results a[download$='model.glb']")
        glb = tmp_path / download.value.suggested_filename
        download.value.save_as(glb)
        checked(glb)
        assert glb.name == f"{run.name}-model.glb"
        page.wait_for_selector("#results .s-scores", timeout=300_000 * PATIENCE)
        page.frame_locator("#results iframe").locator("canvas").wait_for(timeout=30_000 * PATIENCE)
        time.sleep(3)
        look(page, "finished")
        page.get_by_role("tab", name="Gallery").click()
        page.wait_for_selector("#gallery .s-card img")
        time.sleep(1)
        look(page, "gallery")
        assert outside == [] and errors == []
    finally:
        server.kill()
        for run in out.glob("a-red-mug*"):
            (run / "stop").touch()


@pytest.fixture
def light(library):
    """A server over the library's folder, with jobs that train nothing."""
    server = Server(ROOT / "tests" / "studio" / "light_studio.py", library.out)
    yield server
    server.kill()
    for folder in library.out.glob("*/run.json"):
        (folder.parent / "stop").touch()


def test_gallery_comparison_deletion_and_a_narrow_window(browser, light, make_run):
    make_run("a red mug", "done")
    chair = make_run("a blue chair", "done", seed=1).folder
    make_run("a green house", "failed")
    page = opened(browser)
    page.goto(light.address)
    page.get_by_role("tab", name="Gallery").click()
    page.wait_for_function("document.querySelectorAll('#gallery .s-card').length === 3")
    page.fill("#filter textarea, #filter input", "CHAIR")
    page.wait_for_function("document.querySelectorAll('#gallery .s-card').length === 1")
    page.get_by_role("tab", name="Compare").click()
    for side, prompt in (("A", "a red mug"), ("B", "a blue chair")):
        page.click(f"#compare-{side} input")
        page.get_by_role("option", name=prompt).click()
        page.wait_for_selector(f"#side-{side} iframe")
        assert prompt in page.inner_text(f"#side-{side}")
    look(page, "compare")
    page.goto(f"{light.address}/?run={chair.name}")
    wait_for(page, "done", 20)
    asked = []
    for answer in ("dismiss", "accept"):
        page.once("dialog", lambda dialog, answer=answer: (asked.append(dialog.message), getattr(dialog, answer)()))
        page.click("#delete")
        if answer == "dismiss":
            page.wait_for_timeout(1500)
            assert chair.is_dir()
    page.wait_for_function("document.querySelector('#answer').innerText.includes('is deleted')")
    assert asked == [f"Delete {chair.name} and all its files?"] * 2 and not chair.exists()
    for run, state in (("a-green-house", "failed"), ("a-red-mug", "done")):
        phone = opened(browser, width=390, height=844)
        phone.goto(f"{light.address}/?run={run}")
        wait_for(phone, state, 20)
        for tab in ("Gallery", "Compare", "Make"):
            phone.get_by_role("tab", name=tab).click()
            phone.wait_for_timeout(500)
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390, tab
        look(phone, f"phone-{state}")


def test_two_browsers_at_once(browser, light):
    """Each sees its own run and both see the queue; a run that waits is taken when the other one stops."""
    pages = {"a red mug": opened(browser), "a blue chair": opened(browser)}
    for prompt, page in pages.items():
        page.goto(light.address)
        page.fill("#prompt textarea", prompt)
    for page in pages.values():
        page.click("#make")
    first, second = pages.values()
    wait_for(first, "running", 30)
    wait_for(second, "queued", 30)
    for prompt, page in pages.items():
        assert prompt in page.inner_text("#head") and page.url.endswith(prompt.replace(" ", "-"))
        assert "a-red-mug" in page.inner_text(".s-queue") and "a-blue-chair" in page.inner_text(".s-queue")
    first.click("#stop")
    wait_for(first, "stopped", 30)
    wait_for(second, "running", 30)


def test_a_prompt_of_ten_thousand_characters(browser, light, library):
    page = opened(browser)
    page.goto(light.address)
    page.fill("#prompt textarea", "very " * 2000)
    page.click("#make")
    page.wait_for_function("document.querySelector('#said').innerText.includes('at most 2000 characters')")
    assert library.items() == []


def test_another_site_in_the_same_browser(browser, light, library, make_run):
    """It can neither start a run, nor show a picture or the page in a frame, nor read anything."""
    make_run("a red mug", "done")
    body = '{"data": ["", "a blue chair"], "fn_index": 0, "session_hash": "abcdef"}'
    attack = f"""
        <img id=picture src="{light.address}/files/a-red-mug/preview.png">
        <script>
        async function tried(options) {{
            try {{ return (await fetch("{light.address}/gradio_api/queue/join", options)).type }}
            catch (error) {{ return "refused" }}
        }}
        window.answers = (async () => [
            await tried({{method: "POST", mode: "no-cors", headers: {{"content-type": "text/plain"}}, body: `{body}`}}),
            await tried({{method: "POST", headers: {{"content-type": "application/json"}}, body: `{body}`}}),
            await tried({{}}),
        ])()
        </script>"""
    page = opened(browser)
    with served(attack) as address:
        page.goto(address)
        assert page.evaluate("window.answers") == ["refused"] * 3
        assert page.evaluate("document.querySelector('#picture').naturalWidth") == 0
        page.wait_for_timeout(500)
    assert len(library.items()) == 1 and not list((library.out / ".studio" / "queue").glob("*.json"))
    page.goto(light.address)  # the same from the page itself is let in
    own = f"fetch('/gradio_api/queue/join', {{method: 'POST', body: `{body}`}}).then(answer => answer.status)"
    assert page.evaluate(own) not in (403, 404)


@contextmanager
def served(html: str):
    """Address of a page on another port of this machine: another site, as far as a browser can tell."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _step(page) -> int:
    return int(page.evaluate("document.querySelector('#progress').innerText.match(/(\\d+) of/)[1]"))


def _ours(url: str, port: int) -> bool:
    return url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:", "about:"))

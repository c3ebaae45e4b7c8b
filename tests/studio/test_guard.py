"""Who is refused, at the door and by the whole server."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from uni_instruct_3d.studio.app import add_routes, make_app
from uni_instruct_3d.studio.guard import LONGEST_BODY, Guard

OWN = "http://127.0.0.1:7999"


@pytest.fixture
def door(library, make_run):
    """The server without its page."""
    make_run("a red mug", "done")
    app = FastAPI()
    add_routes(app, library)

    @app.post("/gradio_api/queue/join")
    async def join():
        return "in"

    return TestClient(Guard(app, ["127.0.0.1:7999"]), base_url=OWN, raise_server_exceptions=False)


def test_files_of_a_run_and_nothing_else(door):
    answer = door.get("/files/a-red-mug/model.glb")
    assert answer.status_code == 200 and answer.content[:4] == b"glTF"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert door.get("/files/a-red-mug/model-obj.zip").content[:2] == b"PK"
    assert "attachment" in door.get("/files/a-red-mug/model.obj").headers["content-disposition"]
    assert "THREE" in door.get("/view/a-red-mug/model.glb").text
    for path in (
        "/files/a-red-mug/run.json", "/files/../secret.txt", "/files/a-red-mug/%2e%2e/%2e%2e/secret.txt",
        "/files/a-red-mug/..%2f..%2fsecret.txt", "/files/%2fetc/passwd", "/files//etc/passwd",
        "/files/a-red-mug/nerf/last.ckpt",
        "/view/a-red-mug/log.txt", "/view/a-red-mug/..%2f..%2fsecret.txt", "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.org/", "/gradio_api/proxy=http://example.org/", "/gradio_api/upload", "/docs",
        "/gradio_api/run/make", "/gradio_api/call/make", "/files/.studio/lock",
    ):  # fmt: skip
        answer = door.get(path)
        assert answer.status_code == 404, path
        assert "secret" not in answer.text.replace(path, "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": OWN}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),  # another server of this machine
        ({"origin": "https://127.0.0.1:7999"}, 403),
        ({}, 403),  # a browser always says
        ({"origin": OWN, "host": "evil.example:7999"}, 403),  # a name that was made to resolve to this machine
        ({"origin": OWN, "content-length": str(LONGEST_BODY + 1)}, 413),
    ],
)
def test_another_site_may_not_post(door, headers, status):
    assert door.post("/gradio_api/queue/join", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "no-cors"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link somebody followed
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # <img> on another page
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
def test_another_site_may_not_read(door, headers, status):
    assert door.get("/files/a-red-mug/preview.png", headers=headers).status_code == status


def test_a_long_body_is_cut_off_whatever_it_says_of_its_length(library):
    seen = []
    app = FastAPI()

    @app.post("/gradio_api/queue/join")
    async def join(request):
        seen.append(len(await request.body()))

    client = TestClient(Guard(app, ["127.0.0.1:7999"]), base_url=OWN, raise_server_exceptions=False)
    pieces = (b"x" * 50_000 for _ in range(100))
    answer = client.post("/gradio_api/queue/join", headers={"origin": OWN}, content=pieces)
    assert answer.status_code != 200 and seen == []


def test_the_whole_server(library, queue, make_run):
    """The page is there, and Gradio's own doors are shut."""
    make_run("a red mug", "done")
    client = TestClient(make_app(library, queue, 7999), base_url=OWN, raise_server_exceptions=False)
    page = client.get("/")
    assert page.status_code == 200 and "Uni-Instruct 3D studio" in page.text
    assert client.get("/files/a-red-mug/model.glb").content[:4] == b"glTF"
    body = {"data": ["a-red-mug"], "fn_index": 0, "session_hash": "abcdef", "trigger_id": None}
    for headers in ({"origin": "http://evil.example"}, {}):
        assert client.post("/gradio_api/queue/join", json=body, headers=headers).status_code == 403
    upload = client.post("/gradio_api/upload", files={"files": b"x"}, headers={"origin": OWN})
    assert upload.status_code == 404
    for path in ("/gradio_api/file=" + str(library.out.parent / "secret.txt"), "/monitoring", "/gradio_api/runs"):
        assert client.get(path).status_code == 404
    from gradio.context import Context

    assert Context.root_block is None  # nothing of the page is left open for the next test

"""`photoark serve`: a real server in a process of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest

from pipeline.archive.writer import ArchiveWriter
from pipeline.decode.restore import restore
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.metadata.xmp import ENHANCED
from pipeline.records import EncodedPhoto, Outcome
from pipeline.serving.http_app import PhotoServer, http_app
from tests.served import SECRET_PLACE, Server, encoded, kept, serving, transcoded, until

SMALL = "dir/ditic small.tiff"
ODD_KEYS = [
    "plain.bin",
    'quote".bin',
    "back\\slash;semi=colon.bin",
    "line\r\nSet-Cookie: a=b.bin",
    "brücke – 日本.bin",
    "a/b/per%2Fcent?query#part.bin",
    "/absolute.bin",
    "../../up.bin",
    "x" * 1000,
]
WHOLE = "transcoded.jpg"
DAMAGED = ("broken.jpg", "empty.bin", "later.jpg", "other.jpg")
LIAR = "codec\r\nSet-Cookie: a=b\r\n\r\nwrong – "


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> str:
    """Rows of all kinds in two commits, whose keys lie between one another's."""
    photo = encoded("photo.jpg", photo_files["wine.jpg"])
    assert photo.image is not None
    small = encoded(SMALL, photo_files["seeding.tiff"], "ditic-small")
    failed = replace(photo, key="failed.jpg", image=None, outcome=Outcome.FAILED, reason=f"{SECRET_PLACE}/failed.jpg is empty")
    url = str(tmp_path_factory.mktemp("serve") / "archive")
    opened = ArchiveWriter.open_or_create(url)
    opened.commit(
        [
            photo,
            small,
            replace(failed, source_uri=f"{SECRET_PLACE}/failed.jpg"),
            replace(photo, key="broken.jpg", image=photo.image[:100]),
            replace(small, key="other.jpg", model="0" * 16),
            replace(photo, key="later.jpg", codec="sodec"),
        ]
    )
    others = [kept("empty.bin", b""), kept("liar.bin", b"1"), *(kept(key, key.encode()) for key in ODD_KEYS)]
    others[0] = replace(others[0], image=None)
    others[1] = replace(others[1], codec=LIAR)
    opened.commit([kept("kept.jpg", photo_files["wine.jpg"], "JPEG"), transcoded(WHOLE, photo_files["wine.jpg"]), *others])
    return url


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's log goes."""
    return tmp_path_factory.mktemp("log") / "errors"


@pytest.fixture(scope="module")
def server(archive: str, errors: Path) -> Iterator[Server]:
    with serving(archive, errors=errors) as server:
        until(lambda: server.ask("/readyz").status == 200, within_s=120)
        yield server


@pytest.mark.parametrize(
    ("key", "format"),
    [*itertools.product(["photo.jpg", SMALL, WHOLE], [None, "PNG"]), ("kept.jpg", None), ("kept.jpg", "JPEG")],
)
def test_a_photo_is_what_restore_makes_of_it(server: Server, archive: str, key: str, format: str | None) -> None:
    answer = server.photo(key, f"?format={format.lower()}" if format else "")
    assert answer.status == 200
    assert answer.body == restore(archive, key, format=format).data
    assert answer.headers["Content-Type"] == f"image/{probe(answer.body).format.lower()}"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_headers_say_what_made_the_pixels(server: Server, archive: str) -> None:
    row = restore(archive, SMALL).row
    made_up = server.photo(SMALL, method="HEAD").headers
    assert (made_up["Photoark-Codec"], made_up["Photoark-Model"]) == ("ditic-small", row.model)
    assert made_up["Photoark-Digital-Source-Type"] == ENHANCED
    plain = server.photo("photo.jpg").headers
    assert (plain["Photoark-Codec"], plain["Photoark-Outcome"]) == ("webp", "encoded")
    assert "Photoark-Digital-Source-Type" not in plain


def test_an_archive_cannot_say_what_is_not_its_to_say(server: Server) -> None:
    answer = server.photo("liar.bin")
    assert (answer.status, answer.body) == (200, b"1")
    assert unquote(answer.headers["Photoark-Codec"]) == LIAR
    assert "Set-Cookie" not in answer.headers


def test_who_has_the_file_gets_no_other(server: Server) -> None:
    answer = server.photo(SMALL)
    tag = answer.headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag), "strong"
    for known in (tag, f'"other", W/{tag}', "*"):
        again = server.photo(SMALL, headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert server.photo(SMALL, headers={"If-None-Match": '"other"'}).status == 200
    tags = {server.photo(key, query).headers["ETag"] for key in (SMALL, "photo.jpg") for query in ("", "?format=png")}
    assert len(tags) == 4
    head = server.photo(SMALL, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {name: head.headers[name] for name in ("ETag", "Content-Type")} == {
        name: answer.headers[name] for name in ("ETag", "Content-Type")
    }


def test_photos_that_are_asked_for_together_are_those_that_come_alone(server: Server) -> None:
    alone = server.photo(SMALL).body
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(server.photo, [SMALL] * 8 + ["photo.jpg", "broken.jpg", "other.jpg"]))
    assert [answer.status for answer in answers] == [200] * 9 + [500, 500]
    assert all(answer.body == alone for answer in answers[:8])


def test_a_transcoded_file_is_the_source_and_has_pixels_for_other_formats(
    server: Server, photo_files: dict[str, bytes]
) -> None:
    for query in ("", "?format=jpeg"):
        answer = server.photo(WHOLE, query)
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.body == photo_files["wine.jpg"]
    answer = server.photo(WHOLE, "?format=png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(read_pixels(answer.body), read_pixels(photo_files["wine.jpg"]))


@pytest.mark.parametrize(("query", "name"), [("", "photo.jpg"), ("?format=png", "photo.png"), ("?format=jpeg", "photo.jpg")])
def test_the_name_of_a_file_tells_its_format(server: Server, query: str, name: str) -> None:
    for method in ("GET", "HEAD"):
        assert f'filename="{name}"' in server.photo("photo.jpg", query, method=method).headers["Content-Disposition"]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_key_comes_with_its_name_and_as_nothing_that_a_browser_runs(server: Server, key: str) -> None:
    answer = server.ask(f"/photos/{quote(key, safe='')}")
    assert (answer.status, answer.body) == (200, key.encode())
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "Set-Cookie" not in answer.headers
    parsed = Message()
    parsed["Content-Disposition"] = answer.headers["Content-Disposition"]
    assert parsed.get_content_disposition() == "inline"
    extended = re.search(r"filename\*=UTF-8''(\S*)$", answer.headers["Content-Disposition"])
    assert extended is not None
    assert unquote(extended[1]) == PurePosixPath(key).name


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/photos/nothing.jpg", 404, "unknown-key"),
        ("/photos/../../../etc/passwd", 404, "unknown-key"),
        ("/photos/%2e%2e/%2e%2e/etc/passwd", 404, "unknown-key"),
        ("/photos/a%00b", 404, "unknown-key"),
        ("/photos/%ff%fe", 404, "unknown-key"),
        ("/photos/", 404, "unknown-key"),
        ("/photos/failed.jpg", 422, "photo-failed"),
        ("/photos/kept.jpg?format=png", 422, "kept-as-its-bytes"),
        ("/photos/liar.bin?format=jpeg", 422, "kept-as-its-bytes"),
        ("/photos/broken.jpg", 500, "photo-damaged"),
        ("/photos/empty.bin", 500, "photo-damaged"),
        ("/photos/other.jpg", 500, "codec-not-installed"),
        ("/photos/later.jpg", 500, "codec-not-installed"),
        ("/photos/photo.jpg?format=gif", 400, "bad-request"),
        ("/photos/" + "x" * 5000, 400, "bad-request"),
        ("/photos?limit=0", 400, "bad-request"),
        ("/photos?limit=1001", 400, "bad-request"),
        ("/photos?limit=many", 400, "bad-request"),
        ("/photos?prefix=" + "x" * 5000, 400, "bad-request"),
        ("/docs", 404, "no-such-resource"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value,
)
def test_what_cannot_be_had_says_why_and_nothing_of_the_server(
    server: Server, archive: str, path: str, status: int, word: str
) -> None:
    answer = server.ask(path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    said = answer.json()
    assert (said["status"], said["type"]) == (status, f"urn:photoark:problem:{word}")
    assert said["title"]
    assert said["detail"]
    assert not [word for word in (archive, SECRET_PLACE, "Traceback", ".parquet") if word in answer.body.decode()]
    if path.startswith("/photos/") and status != 400:
        assert said["key"] == unquote(path.removeprefix("/photos/").partition("?")[0], errors="replace")
    if word == "photo-failed":
        assert "failed.jpg is empty" in said["detail"]
    assert len(answer.body) < 1000
    assert server.ask("/healthz").json() == {"status": "alive"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/photos"), ("DELETE", "/photos/photo.jpg"), ("PUT", "/healthz")])
def test_a_method_that_is_not_allowed_is_called_so(server: Server, method: str, path: str) -> None:
    answer = server.ask(path, method=method)
    assert (answer.status, answer.headers["Content-Type"]) == (405, "application/problem+json")
    assert (answer.json()["type"], answer.json()["title"]) == ("urn:photoark:problem:method-not-allowed", "Method not allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("name", ["photos.example", "localhost.example:8000", "127.0.0.1.example", "[", ""])
def test_the_loopback_is_not_called_by_a_web_pages_name(server: Server, name: str) -> None:
    for path in ("/photos", "/photos/photo.jpg", "/healthz"):
        answer = server.ask(path, headers={"Host": name})
        assert (answer.status, answer.json()["type"]) == (421, "urn:photoark:problem:misdirected-request")
    for ours in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert server.ask("/healthz", headers={"Host": ours}).status == 200


def test_the_interface_is_described(server: Server) -> None:
    assert set(server.ask("/openapi.json").json()["paths"]) == {"/healthz", "/readyz", "/photos", "/photos/{key}"}


def test_other_methods_are_refused(server: Server) -> None:
    answer = server.photo("photo.jpg", method="DELETE")
    assert (answer.status, answer.headers["Content-Type"]) == (405, "application/problem+json")
    assert set(answer.headers["Allow"].split(", ")) >= {"GET"}


def test_keys_come_page_by_page(server: Server, archive: str) -> None:
    everything = sorted([*ODD_KEYS, "photo.jpg", SMALL, "failed.jpg", "kept.jpg", WHOLE, "liar.bin", *DAMAGED])
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = server.ask(f"/photos?limit=5&after={quote(after)}").json()
        assert len(page["photos"]) <= 5
        seen += [photo["key"] for photo in page["photos"]]
        after = page["next"]
    assert seen == everything
    listed = server.ask("/photos?prefix=dir/").json()
    assert [photo["key"] for photo in listed["photos"]] == [SMALL]
    assert listed["next"] is None
    assert server.ask("/photos?prefix=zz").json() == {"photos": [], "next": None}
    (failed,) = server.ask("/photos?prefix=failed").json()["photos"]
    assert (failed["outcome"], failed["reason"]) == ("failed", "failed.jpg is empty")


def test_new_commits_are_seen(server: Server, archive: str) -> None:
    ArchiveWriter.open(archive).commit([kept("zz-new.bin", b"new")])
    assert server.photo("photo.jpg").status == 200
    until(lambda: server.photo("zz-new.bin").status == 200, within_s=30)
    assert server.photo("zz-new.bin").body == b"new"


def test_the_log_says_what_clients_are_not_told(server: Server, errors: Path) -> None:
    server.photo("broken.jpg")
    server.photo("other.jpg")
    said = errors.read_text()
    assert "broken.jpg: the webp stream cannot be decoded" in said
    assert "name the right file (--weights)" in said
    assert "Traceback" not in said


def test_full_is_said_and_the_end_waits_for_answers(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    url, large = str(tmp_path / "archive"), bytes(range(256)) * (100 << 10)
    later = replace(encoded("later.jpg", photo_files["wine.jpg"]), codec="sodec")
    ArchiveWriter.open_or_create(url).commit([kept("large.bin", large), later])
    with (
        serving(url, "--max-requests", "2", "--allow-host", "photos.example", errors=tmp_path / "errors") as server,
        ExitStack() as clients,
    ):
        assert server.process is not None
        slow = [clients.enter_context(server.begin("large.bin")) for _ in range(2)]
        busy = server.photo("large.bin")
        assert (busy.status, busy.json()["type"]) == (503, "urn:photoark:problem:busy")
        assert int(busy.headers["Retry-After"]) > 0
        assert server.ask("/healthz", headers={"Host": "photos.example"}).status == 200
        assert server.ask("/healthz").status == 200
        slow.pop().close()
        until(lambda: server.photo("large.bin", method="HEAD").status == 200, within_s=20)
        # The codec that its streams need is not here.
        assert server.photo("later.jpg").json()["type"] == "urn:photoark:problem:codec-not-installed"
        assert server.ask("/readyz").status == 503
        server.process.send_signal(signal.SIGTERM)
        until(lambda: _is_refused(server.port), within_s=20)
        answer = b"".join(iter(lambda: slow[0].recv(1 << 20), b""))
        assert answer.endswith(large)
        assert server.process.wait(60) == 0, (tmp_path / "errors").read_text()


def test_what_nobody_foresaw_is_an_answer_too(archive: str) -> None:
    class Broken(PhotoServer):
        def look_up(self, key: str, format: str | None) -> tuple[EncodedPhoto, str]:
            raise ValueError(f"{SECRET_PLACE}/{key}")

    broken = Broken(archive)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/photos/a.jpg", "query_string": b"", "headers": []}
    asyncio.run(http_app(broken)(scope, receive, send))
    broken.decoding.close()
    assert sent[0]["status"] == 500
    said = json.loads(b"".join(message.get("body", b"") for message in sent))
    assert said["type"] == "urn:photoark:problem:internal"
    assert SECRET_PLACE not in str(said)


@pytest.mark.s3
def test_an_archive_on_s3_that_goes_away_and_comes_back(s3_url: str, tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    url = f"{s3_url}/archive"
    archive = ArchiveWriter.open_or_create(url)
    archive.commit([encoded("a.jpg", photo_files["wine.jpg"])])
    (shard,) = archive.shards()
    with serving(url, errors=tmp_path / "errors") as server:
        assert server.photo("a.jpg").body == restore(url, "a.jpg").data
        data = archive.storage.read(shard.path)
        archive.storage.delete(shard.path)
        gone = server.photo("a.jpg")
        assert (gone.status, gone.json()["type"]) == (503, "urn:photoark:problem:store-unavailable")
        assert not [word for word in ("s3://", "parquet", "127.0.0.1") if word in gone.body.decode()]
        archive.storage.write(shard.path, data)
        assert server.photo("a.jpg").status == 200


def test_what_cannot_be_served_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, said in (
            ([str(tmp_path), "--port", port], 2, f"--port {port}: Address already in use"),
            ([str(tmp_path), "--port", "0"], 2, "there is no archive"),
            ([str(tmp_path), "--port", "0", "--max-requests", "0"], 2, "must be positive"),
        ):
            command = [sys.executable, "-m", "jobs", "serve", *arguments]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (result.returncode, said in result.stderr) == (code, True), result.stderr


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False

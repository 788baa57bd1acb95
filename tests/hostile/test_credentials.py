"""No credential is in an error, a row, or what a command prints, even where a server sends them back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.archive.shard_writer import write_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import PhotoarkError, SettingError, redacted
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.base import Storage

KEY_ID, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzEXAMPLETOKEN=="
ROOT = Path(__file__).parents[2]


class _Tattler(BaseHTTPRequestHandler):
    """A store that refuses everything, and repeats what it was sent."""

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        said = f"{self.headers.get('authorization')} {self.headers.get('x-amz-security-token')} aws_secret_access_key={SECRET}"
        body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def tattler(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tattler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = {
        "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN, "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield "s3://bucket/archive"
    server.shutdown()
    server.server_close()
    thread.join()


def assert_silent(text: str) -> None:
    for secret in (KEY_ID, SECRET, TOKEN, "Signature=", "EXAMPLE"):
        assert secret not in text


def test_what_a_store_sends_back_is_told_without_credentials(tattler: str) -> None:
    storage = Storage(tattler)
    ways: list[Callable[[], object]] = [
        lambda: storage.read("a.jpg"), lambda: storage.fetch("a.jpg"), lambda: storage.open("a.jpg").read(),
        lambda: storage.write("a.jpg", b"x"), lambda: storage.delete("a.jpg"), lambda: list(storage.list()),
        lambda: ArchiveWriter.open(tattler), lambda: ArchiveWriter.open_or_create(tattler),
    ]  # fmt: skip
    for way in ways:
        with pytest.raises(PhotoarkError, match=r"can(not)? be") as caught:
            way()
        assert_silent(str(caught.value) + repr(caught.value) + caught.value.message)
    assert_silent(repr(storage))


def test_commands_print_none(tattler: str) -> None:
    command = [str(Path(sys.executable).with_name("photoark")), "ls", tattler]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.returncode == 1
    assert "AccessDenied" in result.stderr
    assert_silent(result.stdout + result.stderr)


def test_log_lines_hold_none(tattler: str) -> None:
    command = [str(Path(sys.executable).with_name("photoark")), "verify", tattler, "--log-format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.returncode == 1
    assert any("AccessDenied" in json.loads(line)["event"] for line in result.stderr.splitlines())
    assert_silent(result.stdout + result.stderr)


def test_errors_that_nobody_expected_are_printed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    code = f"""
import jobs.cli
def broken(**_): raise RuntimeError("sent {SECRET} to ftp://user:{KEY_ID}@host")
jobs.cli.app = broken
jobs.cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "RuntimeError: sent *** to ftp://***@host" in result.stderr
    assert_silent(result.stderr.replace(code, ""))


def test_rows_hold_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2-hunter2")
    row = EncodedPhoto(
        key="a.jpg", image=None, codec=None, model=None, outcome=Outcome.FAILED, source_uri="/a.jpg", source_bytes=0,
        reason=f"refused hunter2-hunter2, {KEY_ID}, x-amz-security-token: {TOKEN}",
    )  # fmt: skip
    shard = write_shard(Storage(str(tmp_path)), [row])
    (reason,) = pq.read_table(tmp_path / shard.path)["reason"].to_pylist()
    assert reason == "refused ***, ***, ***"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY_ID}:{SECRET}@bucket/photos",
        f"s3://{KEY_ID}@bucket",
        f"https://host/photos?X-Amz-Credential=x&X-Amz-Signature={SECRET}",
        f"az://container?sig={SECRET}",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingError, match="environment") as caught:
        Storage(url)
    assert_silent(str(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b.jpg does not exist",
        "/photos/token.jpg: the file is empty",
        "wine.jpg: the bitstream's header says ('jpeg', None)",
        "s3://bucket/signature: cannot be read: key not found",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text) == text

"""What many tests need: the sample photos, an S3 server, one Ray for all that run it in this process."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PHOTOS = Path(__file__).parent / "photos"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests that repeat something as often as `make soak` does")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether a test that repeats something at random does so as often as it can, instead of a few times."""
    return bool(request.config.getoption("--soak"))


def pytest_configure() -> None:
    """Let tests send Ctrl-C: a shell that starts them in the background has them, and all that they start, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take long come first, so that no process ends long after the others; those of CUDA are skipped without it."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("cluster", "chaos", "slow")))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session")
def photo_files() -> dict[str, bytes]:
    """Name -> bytes of the sample photos."""
    return {path.name: path.read_bytes() for path in sorted(PHOTOS.iterdir()) if path.suffix != ".md"}


@pytest.fixture(scope="session")
def ray_session(s3_server: str) -> Iterator[None]:
    """A Ray of this test run; its workers inherit the environment, the S3 server's address included."""
    from cluster.connect import connected

    with connected():
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real HTTP S3 server; its address and credentials are in the environment, where boto3's chain looks."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto looks whether there is such an object, and then writes it; S3 does both in one step, which the log relies on.
    turn, put_object = threading.Lock(), S3Response.put_object

    def put_one_by_one(response: S3Response) -> Any:
        with turn:
            return put_object(response)

    patch = pytest.MonkeyPatch()
    patch.setattr(S3Response, "put_object", put_one_by_one)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield settings["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()
    patch.undo()


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """URL of an empty bucket."""
    import boto3

    bucket = f"photos-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"

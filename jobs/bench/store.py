"""What benchmarks of the pipeline take their photos from: an S3 server of their own, and photos made for it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec

from pipeline.errors import SettingError

MEGAPIXELS = (0.2,) * 6 + (0.5,) * 6 + (1.0,) * 6 + (2.0,) * 4 + (4.0,) * 3 + (8.0,) * 2 + (12.0, 24.0)
"""A mix of sizes such as phones and cameras leave behind; 2.8 on average."""
_NOISE = 7.0
"""Standard deviation of the grain: with it a file has about two bits a pixel, as cameras' files do."""


def photo(megapixels: float, seed: int = 0) -> bytes:
    """A JPEG of soft shapes with some grain."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    height = max(1, int((megapixels * 1e6 * 3 / 4) ** 0.5))
    small = Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8))
    shapes = np.asarray(small.resize((height * 4 // 3, height), Image.Resampling.BICUBIC), np.float32)
    grain = random.standard_normal((*shapes.shape[:2], 1), np.float32) * _NOISE
    data = io.BytesIO()
    Image.fromarray(np.clip(shapes + grain, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
    return data.getvalue()


def mixed_photos() -> list[bytes]:
    """One file for each of `MEGAPIXELS`; those of one size are the same."""
    made = {megapixels: photo(megapixels) for megapixels in set(MEGAPIXELS)}
    return [made[megapixels] for megapixels in MEGAPIXELS]


@contextmanager
def s3_server() -> Iterator[None]:
    """moto's server in a process of its own, and the environment that leads to it.

    Raises:
        SettingError: moto is not installed.
    """
    if find_spec("moto") is None:
        raise SettingError("this benchmark needs an S3 server to talk to: pip install 'photoark[dev]'")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def new_bucket() -> str:
    """URL of an empty bucket."""
    import boto3

    name = f"bench-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def store_speed(files: Sequence[bytes], *, threads: int = 4, requests: int = 200) -> tuple[float, float]:
    """(GETs, megabytes) a second that the server hands to threads of this process, which share its cores with it."""
    from pipeline.storage.base import Storage

    source = Storage(f"{new_bucket()}/speed")
    for i, data in enumerate(files):
        source.write(f"{i}.jpg", data)
    start_s = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(lambda i: len(source.read(f"{i % len(files)}.jpg")), range(requests)))
    took_s = time.perf_counter() - start_s
    return requests / took_s, sum(sizes) / 1e6 / took_s

"""Commands in the process of the test: without the seconds that imports and a Ray of their own take."""

from __future__ import annotations

import gc
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest

import cluster.connect
from jobs.cli import main


def photoark(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `photoark` to its end, with `env` added to the environment.

    A command that needs Ray works on the one of `ray_session` where the test uses that fixture.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    threshold, on_sigterm = gc.get_threshold(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["photoark", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(cluster.connect, "connected", _connected)
        patch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        for name, value in env.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        finally:
            gc.unfreeze()
            gc.set_threshold(*threshold)
            signal.signal(signal.SIGTERM, on_sigterm)
    assert isinstance(code, int)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(sys.argv, code, *texts)


_start_or_join = cluster.connect.connected


@contextmanager
def _connected(address: str | None = None, **options: Any) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        assert address is None and not any(options.values()), "the Ray of the test run has no options"
        yield
    else:
        with _start_or_join(address, **options):
            yield

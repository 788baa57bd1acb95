"""Which Ray a command works on."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from cluster.connect import connected
from tests.cluster.machines import machines


def test_a_ray_that_somebody_else_started_here_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where Ray notes down the head that was started last. Short, as it will hold sockets.
    common = Path("/tmp") / f"pa-{secrets.token_hex(4)}"
    monkeypatch.setenv("RAY_TMPDIR", str(common))
    with machines(tmp_path) as theirs:
        note = common / "ray" / "ray_current_cluster"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(theirs.address)
        code = (
            "import ray; from cluster.connect import connected\nwith connected(): print(ray.get_runtime_context().gcs_address)"
        )
        environment = {name: value for name, value in theirs.environment.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-W", "ignore", "-c", code]
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() not in ("", theirs.address)


_INTERRUPTED = """
import os, signal, sys
import ray
from cluster.connect import connected
from pipeline.interrupt import Terminated, raise_terminated

signal.signal(signal.SIGTERM, raise_terminated)

start = ray.init

def init(**options):
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    start(**options)
    print("started")

ray.init = init
try:
    with connected():
        print("worked")
except (KeyboardInterrupt, Terminated) as error:
    print(type(error).__name__, "running:", ray.is_initialized(), signal.getsignal(signal.SIGTERM) is raise_terminated)
"""


@pytest.mark.parametrize(("name", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_signal_waits_until_ray_has_started_and_stops_it_then(name: str, error: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _INTERRUPTED, name]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["started", f"{error} running: False True"]


@pytest.mark.usefixtures("ray_session")
def test_a_ray_that_this_process_uses_already_is_not_stopped() -> None:
    with pytest.raises(RuntimeError, match="twice"), connected():
        raise AssertionError
    assert ray.is_initialized()

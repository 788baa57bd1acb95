"""Start Ray on this machine, or join one that runs.

Whoever reaches Ray's ports may run code as this user. A Ray that is started here asks for a token, as Ray does unless
RAY_AUTH_MODE says otherwise, and nobody but this user can read it.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private.node import Node

from pipeline.errors import PhotoarkError
from pipeline.interrupt import Interrupt
from pipeline.on_ray.resources import available_cores

_OBJECT_STORE_BYTES = 2 << 30
_THREADS = ("iter_threaded", "StreamingExecutor", "ray-data-metadata-prefetch", "alone-")
"""How names begin of threads that Ray Data and `pipeline.on_ray.isolation` start, and tell to end, but do not wait for."""


@contextmanager
def connected(
    address: str | None = None, *, num_gpus: int | None = None, runtime_env: dict[str, Any] | None = None
) -> Iterator[None]:
    """Connect for the length of a `with` block; a Ray that was started here is stopped at its end.

    Args:
        address: of a running cluster, such as `auto` or `ray://host:10001`; None starts one on this machine, unless the
            process runs inside a Ray job, which it then joins.
        num_gpus: that a Ray which is started here counts, instead of those it finds; for simulated ones.
        runtime_env: of every worker of this job, as Ray takes it.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": runtime_env}
    if joins(address):
        options["address"] = address or os.environ["RAY_ADDRESS"]
    else:
        # Ray would take 30% of the memory for its object store; what travels here is small and bounded. The dashboard
        # stays off: it would listen on a port that nobody asked for, and on the loopback alone if somebody does.
        options |= {
            # Without it Ray would join whatever Ray another program started on this machine.
            "address": "local",
            "num_cpus": available_cores(),
            "num_gpus": num_gpus,
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": min(_OBJECT_STORE_BYTES, _memory_bytes() // 4),
        }
        _keep_token_private()
    # Ray's C++ core prints to the terminal of the driver what concerns nobody who archives photos; errors still raise.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with ExitStack() as at_end:
        with Interrupt().held_back(), _without_sigterm_handler(), _without_services(), _quiet_stderr():
            _start(options)  # Ray announces even the setting of its log level
            at_end.callback(_stop)
        yield


def _start(options: dict[str, Any]) -> None:
    was_there = ray.is_initialized()
    try:
        ray.init(**options)
    except Exception as error:  # of no type of its own
        if was_there:
            raise
        what = f"Ray at {options['address']} cannot be joined" if options["address"] != "local" else "Ray did not start"
        raise PhotoarkError(f"{what}: {str(error).splitlines()[0]} Run the same command again") from error


def joins(address: str | None) -> bool:
    """Whether `connected(address)` joins a Ray that runs, instead of starting one."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def _stop() -> None:
    # A thread that asks for something when Ray is gone ends the process, before anybody says why: let them end.
    end_s = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread.name.startswith(_THREADS):
            thread.join(timeout=max(0, end_s - time.monotonic()))
    ray.shutdown()


def _keep_token_private() -> None:
    """Make the token where Ray looks for it, which would itself make one that every user of the machine can read."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    path.chmod(0o600)


@contextmanager
def _without_sigterm_handler() -> Iterator[None]:
    """Keep Ray 2.60 from installing a SIGTERM handler: it would leave with exit code 15 in the midst of `ray.init`."""
    install = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = install


@contextmanager
def _without_services() -> Iterator[None]:
    """Keep Ray 2.60 from starting processes that serve clusters alone: a third of the CPU time that its start takes.

    The autoscaler's monitor has no machines to add, the dashboard's server runs even where there is no dashboard, and the log
    monitor reads lines for a driver that does not want them. A Ray that is joined has its own.
    """
    with ExitStack() as at_end:
        for name in ("start_monitor", "start_api_server", "start_log_monitor"):
            at_end.callback(setattr, Node, name, getattr(Node, name))
            setattr(Node, name, lambda *_, **__: None)
        yield


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""`photoark serve`: photos over HTTP, restored as they are asked for, without Ray."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, Config, Device, Weights
from pipeline.errors import SettingError

GRACE_S = 60
"""For answers that are on their way when the server is told to end."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def serve(
    archive: ArchiveUrl,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but the loopback lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    max_requests: Annotated[int, typer.Option(help="Taken on at once; more are sent away with 503.")] = 64,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name to be called by where --host is the loopback; a proxy may hand one on."),
    ] = None,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16; auto by default.")] = None,
    weights: Weights = None,
    config: Config = None,
) -> None:
    """Serve an archive over HTTP: GET /photos lists it, GET /photos/KEY restores a photo."""
    import uvicorn

    from jobs.settings import load_settings
    from pipeline.serving.http_app import PhotoServer, ServingOptions, http_app

    settings = load_settings(config, device=device, weights=weights, precision=precision)
    names = (*_LOOPBACK_NAMES, host, *(allow_host or [])) if _is_loopback(host) else ()
    serving = ServingOptions(max_requests=max_requests, allowed_hosts=names)
    with _listening(host, port) as listener:
        app = http_app(PhotoServer(archive, settings.codec_options()), serving)
        address = f"[{host}]" if ":" in host else host
        typer.echo(f"{archive}: http://{address}:{listener.getsockname()[1]}/photos")
        if not _is_loopback(host):
            typer.echo("photoark: whoever reaches this address can see every photo; SECURITY.md says more", err=True)
        # The same everywhere, whatever else is installed.
        options = uvicorn.Config(
            app, http="h11", loop="asyncio", log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE_S
        )
        # uvicorn raises the signal that ended it once more; to be told to end is no failure.
        signal.signal(signal.SIGTERM, lambda *_: None)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(options).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except OSError as error:
        raise SettingError(f"--host {host} --port {port}: {error.strerror or error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

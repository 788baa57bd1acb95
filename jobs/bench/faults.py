"""`photoark bench faults`: encode while processes are killed and an S3 server misbehaves, and count what it cost."""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from jobs.bench.fault_run import KINDS, PATIENCE_S, Rows, Run, kill
from pipeline.errors import PhotoarkError, SettingError

_NUM_NETWORK_PHOTOS = 120
_WEIGHTS = (1, 2, 2)
"""A new driver takes longest to start."""
NETWORK = ("slow_down", "reset", "stall", "truncate", "flip", "flip_upload", "drop")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one kind of fault came to."""

    fault: str
    injected: int = 0
    lost: int = 0
    """Photos of the source without a row, or with another than without faults, when the same command had ended well."""
    duplicated: int = 0
    """Rows too many, whenever a reader looked."""
    recovery_s: list[float] = field(default_factory=list)
    """From the fault to the next commit, start of a new driver included."""
    repeated: list[int] = field(default_factory=list)
    """Photos, of each fault, that had been in a codec and had to be done again."""
    repeated_s: list[float] = field(default_factory=list)
    """How long codecs had worked on them."""

    def judge(self, run: Run, expected: Rows) -> None:
        """Count what is wrong with a finished run."""
        rows = run.rows()
        self.lost += sum(rows.get(key) != row for key, row in expected.items())
        self.duplicated += run.num_duplicates + len(rows.keys() - expected.keys())


def bench_faults(
    rounds: Annotated[int, typer.Option(help="Processes to kill.", min=0)] = 20,
    seed: Annotated[int, typer.Option(help="Of what happens and when.")] = 0,
    num_photos: Annotated[int, typer.Option("--photos", help="Photos to encode.", min=20)] = 600,
    megapixels: Annotated[float, typer.Option(help="Of each photo.", min=0.01)] = 0.08,
    ms_per_megapixel: Annotated[
        float, typer.Option(help="What the codec takes besides; 150 is the paper's figure for the full model on an A100.")
    ] = 150.0,
    commit_interval_s: Annotated[float, typer.Option(help="As the setting of this name.")] = 1.0,
    network: Annotated[bool, typer.Option(help="Try a misbehaving S3 server too; needs moto.")] = True,
) -> None:
    """Kill driver, actor and worker at random moments, and let an S3 server misbehave; the last line is a JSON object."""
    chance = random.Random(seed)
    settings = {"PHOTOARK_COMMIT_INTERVAL_S": str(commit_interval_s), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="photoark-faults-") as folder:
        source = _photos(Path(folder) / "photos", num_photos, megapixels)
        with Run(source, f"{folder}/undisturbed", Path(folder) / "log", **settings) as undisturbed:
            undisturbed.finish()
            expected = undisturbed.rows()
        tallies = _kills(source, folder, rounds, chance, expected, ms_per_megapixel / 1000, settings)
        if network:
            tallies += _network(source, folder, seed, expected, settings)
    typer.echo(
        f"{'fault':12} {'injected':>8} {'lost':>5} {'duplicated':>10} "
        f"{'recovery s':>16} {'photos repeated':>16} {'codec s repeated':>16}"
    )
    for tally in tallies:
        columns = " ".join(f"{_told(values):>16}" for values in (tally.recovery_s, tally.repeated, tally.repeated_s))
        typer.echo(f"{tally.fault:12} {tally.injected:8} {tally.lost:5} {tally.duplicated:10} {columns}")
    typer.echo(f"commit interval {commit_interval_s:g} s; the codec takes {ms_per_megapixel:g} ms a megapixel and its own time")
    result = {
        "seed": seed, "commit_interval_s": commit_interval_s, "num_photos": num_photos, "megapixels": megapixels,
        "ms_per_megapixel": ms_per_megapixel, "faults": [asdict(tally) for tally in tallies],
    }  # fmt: skip
    typer.echo(json.dumps(result))


def _told(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f}, max {max(values):.1f}" if values else "-"


def _kills(
    source: str,
    folder: str,
    rounds: int,
    chance: random.Random,
    expected: Rows,
    s_per_megapixel: float,
    settings: dict[str, str],
) -> list[Tally]:
    """Kill one process after the other; an archive that is finished makes room for the next."""
    from jobs.bench.watched_codec import command, repeated

    tallies = {kind: Tally(fault=f"kill {kind}") for kind in KINDS}
    done = 0
    while done < rounds:
        watched = Path(folder) / f"watched-{done}"
        watched.mkdir()
        photoark = command(watched, s_per_megapixel)
        with Run(source, f"{folder}/archive-{done}", Path(folder) / "log", photoark, **settings) as run:
            kills: list[tuple[float, str]] = []
            while done < rounds and run.num_committed() < len(expected):
                if run.has_ended():
                    run.start()
                (kind,) = chance.choices(KINDS, _WEIGHTS)
                if kind != "driver":
                    run.wait_for(kind)
                # A driver may die at any moment from its start on.
                time.sleep(chance.uniform(0, 8 if kind == "driver" else 1))
                victims = run.processes(kind)
                if run.has_ended() or not victims:
                    continue
                committed = run.num_committed()
                if kind == "driver":
                    run.kill_driver()
                    kills.append((time.time(), kind))
                    committed = run.num_committed()
                    run.start()
                else:
                    kill(chance.choice(victims))
                    kills.append((time.time(), kind))
                at_s = time.monotonic()
                tallies[kind].injected += 1
                done += 1
                run.wait_for_more_than(committed)
                tallies[kind].recovery_s.append(round(time.monotonic() - at_s, 2))
                typer.echo(f"{done} of {rounds}: {kind} killed, next commit after {tallies[kind].recovery_s[-1]} s", err=True)
            run.finish()
            for kind in {kind for _, kind in kills}:
                tallies[kind].judge(run, expected)
        for (_, kind), took_s in zip(kills, repeated(watched, [at for at, _ in kills]), strict=True):
            tallies[kind].repeated.append(len(took_s))
            tallies[kind].repeated_s.append(round(sum(took_s), 2))
    return list(tallies.values())


def _network(source: str, folder: str, seed: int, expected: Rows, settings: dict[str, str]) -> list[Tally]:
    """Everything that the proxy knows at once, and then credentials that expire before the end."""
    from jobs.bench.fault_proxy import (  # here: HTTP's modules are slow to load, and each command loads this one
        FaultPlan,
        FaultProxy,
    )
    from pipeline.storage.base import Storage

    with _s3_server() as server, FaultProxy(server, FaultPlan(seed=seed, stall_s=2)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = server
        bucket = Storage("s3://photoark-faults/photos")
        photos = {path.name: path.read_bytes() for path in sorted(Path(source).iterdir())[:_NUM_NETWORK_PHOTOS]}
        for name, data in photos.items():
            bucket.write(name, data)
        expected = {key: row for key, row in expected.items() if key in photos}

        tallies = {fault: Tally(fault=fault) for fault in (*NETWORK, "expired")}
        settings = settings | {"AWS_ENDPOINT_URL": proxy.url}
        proxy.plan.rates = {fault: 0.01 if fault == "stall" else 0.04 for fault in NETWORK}
        with Run(bucket.url, "s3://photoark-faults/archive", Path(folder) / "log", **settings) as run:
            run.finish()
            for fault in NETWORK:
                tallies[fault].injected = proxy.injected[fault]
                tallies[fault].judge(run, expected)

        proxy.plan.rates = {}
        with Run(bucket.url, "s3://photoark-faults/second", Path(folder) / "log", **settings) as run:
            run.start()
            run.wait_for_more_than(0)
            proxy.plan.rates = {"expired": 1}
            assert run.driver is not None
            if run.driver.wait(PATIENCE_S) and "renew them" not in run.output():
                raise PhotoarkError(f"credentials expired, and nobody was told: {run.output()[-500:]}")
            proxy.plan.rates = {}
            committed, at_s = run.num_committed(), time.monotonic()
            tallies["expired"].repeated.append(max(0, run.num_encoded() - committed))
            run.start()
            run.wait_for_more_than(committed)
            tallies["expired"].recovery_s.append(round(time.monotonic() - at_s, 2))
            run.finish()
            tallies["expired"].injected = proxy.injected["expired"]
            tallies["expired"].judge(run, expected)
        if any(bucket.read(name) != data for name, data in photos.items()):
            raise PhotoarkError("the source is not what it was")
    return list(tallies.values())


@contextmanager
def _s3_server() -> Iterator[str]:
    """An S3 server of this process, with credentials for it in the environment."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise SettingError("an S3 server to misbehave comes with moto: pip install 'photoark[dev]', or --no-network") from error
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="photoark-faults")
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


def _photos(folder: Path, count: int, megapixels: float) -> str:
    """Noisy photos of coloured squares, each another one; JPEGs of a quarter of a byte a pixel."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    chance = np.random.default_rng(0)
    side = max(1, round((megapixels * 1e6 / (12 * 16)) ** 0.5))
    for i in range(count):
        squares = chance.integers(16, 240, (12, 16, 3), dtype=np.uint8)
        pixels = np.kron(squares, np.ones((side, side, 1), np.uint8))
        pixels += chance.integers(0, 16, (*pixels.shape[:2], 1), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg")
    return str(folder)

"""`photoark bench faults`: encode while processes are killed and an S3 server misbehaves, and count what it cost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.fault_proxy import FaultPlan, FaultProxy
from pipeline.errors import PhotoarkError, SettingError

if TYPE_CHECKING:
    import psutil

_PATIENCE_S = 180.0
_MAX_RUNS = 8
_COMMIT_INTERVAL_S = 0.5
_NUM_NETWORK_PHOTOS = 120
KINDS = ("driver", "actor", "worker")
_WEIGHTS = (1, 2, 2)
"""A new driver takes longest to start."""
_NAMES = {"actor": ("EncodeWorker",), "worker": ("read_block", "ray::IDLE")}
NETWORK = ("slow_down", "reset", "stall", "truncate", "flip", "flip_upload", "drop")

Rows = dict[str, tuple[str, str]]
"""Key -> outcome and SHA-256 of the stream."""


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
    """Photos that had been encoded and were not committed."""

    def judge(self, run: _Run, expected: Rows) -> None:
        """Count what is wrong with a finished run."""
        rows = run.rows()
        self.lost += sum(rows.get(key) != row for key, row in expected.items())
        self.duplicated += run.num_duplicates + len(rows.keys() - expected.keys())


def bench_faults(
    rounds: Annotated[int, typer.Option(help="Processes to kill.", min=0)] = 20,
    seed: Annotated[int, typer.Option(help="Of what happens and when.")] = 0,
    num_photos: Annotated[int, typer.Option("--photos", help="Small photos to encode.", min=20)] = 600,
    network: Annotated[bool, typer.Option(help="Try a misbehaving S3 server too; needs moto.")] = True,
) -> None:
    """Kill driver, actor and worker at random moments, and let an S3 server misbehave; the last line is a JSON object."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="photoark-faults-") as folder:
        source = _photos(Path(folder) / "photos", num_photos)
        with _Run(source, f"{folder}/undisturbed", Path(folder) / "log") as undisturbed:
            undisturbed.finish()
            expected = undisturbed.rows()
        tallies = _kills(source, folder, rounds, chance, expected)
        if network:
            tallies += _network(source, folder, seed, expected)
    typer.echo(f"{'fault':12} {'injected':>8} {'lost':>5} {'duplicated':>10} {'recovery s':>16} {'repeated':>9}")
    for tally in tallies:
        recovery = f"{statistics.mean(tally.recovery_s):.1f}, max {max(tally.recovery_s):.1f}" if tally.recovery_s else "-"
        repeated = f"max {max(tally.repeated)}" if tally.repeated else "-"
        typer.echo(f"{tally.fault:12} {tally.injected:8} {tally.lost:5} {tally.duplicated:10} {recovery:>16} {repeated:>9}")
    typer.echo(json.dumps({"seed": seed, "commit_interval_s": _COMMIT_INTERVAL_S, "faults": [asdict(t) for t in tallies]}))


class _Run:
    """One archive, and the process that works on it at present."""

    def __init__(self, source: str, archive: str, log: Path, **env: str) -> None:
        self.source, self.archive, self._log = source, archive, log
        settings = {"PHOTOARK_COMMIT_INTERVAL_S": str(_COMMIT_INTERVAL_S), "OMP_NUM_THREADS": "1"}
        self._env = {**os.environ, **settings, **env}
        self.num_duplicates = 0
        self.num_at_start = 0
        """Photos that were committed when the present driver started."""
        self.driver: psutil.Popen | None = None

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended():
            self.kill_driver()

    def start(self) -> None:
        import psutil

        self.num_at_start = self.num_committed()
        command = [sys.executable, "-m", "jobs", "encode", self.source, self.archive, "--codec", "webp", "--json"]
        with self._log.open("w") as log:
            self.driver = psutil.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        """Let it end well, with as many starts as that takes."""
        for _ in range(_MAX_RUNS):
            if self.driver is None:
                self.start()
            assert self.driver is not None
            if self.driver.wait(_PATIENCE_S) == 0:
                return
            self.driver = None
        raise PhotoarkError(f"encoding did not end well in {_MAX_RUNS} runs: {self.output()[-500:]}")

    def has_ended(self) -> bool:
        return self.driver is None or self.driver.poll() is not None

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Until it happened or the driver ended.

        Raises:
            PhotoarkError: neither within minutes.
        """
        end_s = time.monotonic() + _PATIENCE_S
        while not happened() and not self.has_ended():
            if time.monotonic() > end_s:
                raise PhotoarkError(f"nothing went on for {_PATIENCE_S:.0f} s: {self.output()[-500:]}")
            time.sleep(0.2)

    def wait_for(self, kind: str) -> None:
        """Until there is such a process."""
        self.wait_until(lambda: bool(self.processes(kind)))

    def wait_for_more_than(self, num_committed: int) -> None:
        """Until more than so many photos are committed."""
        self.wait_until(lambda: self.num_committed() > num_committed)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def num_encoded(self) -> int:
        """Photos that the present driver says it has the rows of."""
        lines = [line for line in self.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return max((json.loads(line).get("num_done", 0) for line in lines), default=0)

    def num_committed(self) -> int:
        """As a reader sees it now; every look counts rows that are there twice."""
        from pipeline.archive.commit import Archive
        from pipeline.errors import ArchiveNotFoundError

        try:
            archive = Archive.open(self.archive)
        except ArchiveNotFoundError:
            return 0
        num_keys = len(archive.keys())
        self.num_duplicates += sum(shard.num_rows for shard in archive.shards()) - num_keys
        return num_keys

    def rows(self) -> Rows:
        """Key -> outcome and SHA-256 of the stream; what `verify` and `vacuum` find must be nothing.

        Raises:
            PhotoarkError: the archive is damaged, or holds files that it does not need.
        """
        from pipeline.archive.commit import Archive
        from pipeline.archive.shard_reader import read_rows
        from pipeline.archive.vacuum import vacuum
        from pipeline.archive.verify import verify

        archive = Archive.open(self.archive)
        vacuum(archive, retention_hours=0)
        report = verify(archive)
        if report.damages or report.orphans:
            raise PhotoarkError(f"{self.archive}: {[*report.damages, *report.orphans][:3]}")
        return {row.key: (str(row.outcome), hashlib.sha256(row.image or b"").hexdigest()) for row in read_rows(archive)}

    def processes(self, kind: str) -> list[psutil.Process]:
        """The driver; or of what Ray started below it, the actor or those that read photos."""
        import psutil

        if kind == "driver":
            return [self.driver] if self.driver else []
        found: list[psutil.Process] = []
        for process in self._children():
            try:
                name = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if name.startswith("ray::") and any(part in name for part in _NAMES[kind]):
                found.append(process)
        return found

    def _children(self) -> list[psutil.Process]:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):  # it may just have ended
            return self.driver.children(recursive=True) if self.driver else []
        return []

    def kill_driver(self) -> None:
        """And what it had started, as when a machine goes down."""
        assert self.driver is not None
        for process in [*self._children(), self.driver]:
            _kill(process)
        self.driver.wait()
        self.driver = None


def _kills(source: str, folder: str, rounds: int, chance: random.Random, expected: Rows) -> list[Tally]:
    """Kill one process after the other; an archive that is finished makes room for the next."""
    tallies = {kind: Tally(fault=f"kill {kind}") for kind in KINDS}
    done = 0
    while done < rounds:
        with _Run(source, f"{folder}/archive-{done}", Path(folder) / "log") as run:
            here: set[str] = set()
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
                encoded, committed = run.num_encoded(), run.num_committed()
                if kind == "driver":
                    run.kill_driver()
                    committed = run.num_committed()
                    tallies[kind].repeated.append(max(0, encoded - (committed - run.num_at_start)))
                    run.start()
                else:
                    _kill(chance.choice(victims))
                at_s = time.monotonic()
                here.add(kind)
                tallies[kind].injected += 1
                done += 1
                run.wait_for_more_than(committed)
                tallies[kind].recovery_s.append(round(time.monotonic() - at_s, 2))
                typer.echo(f"{done} of {rounds}: {kind} killed, next commit after {tallies[kind].recovery_s[-1]} s", err=True)
            run.finish()
            for kind in here:
                tallies[kind].judge(run, expected)
    return list(tallies.values())


def _network(source: str, folder: str, seed: int, expected: Rows) -> list[Tally]:
    """Everything that the proxy knows at once, and then credentials that expire before the end."""
    from pipeline.storage import Storage

    with _s3_server() as server, FaultProxy(server, FaultPlan(seed=seed, stall_s=2)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = server
        bucket = Storage("s3://photoark-faults/photos")
        photos = {path.name: path.read_bytes() for path in sorted(Path(source).iterdir())[:_NUM_NETWORK_PHOTOS]}
        for name, data in photos.items():
            bucket.write(name, data)
        expected = {key: row for key, row in expected.items() if key in photos}

        tallies = {fault: Tally(fault=fault) for fault in (*NETWORK, "expired")}
        proxy.plan.rates = {fault: 0.01 if fault == "stall" else 0.04 for fault in NETWORK}
        with _Run(bucket.url, "s3://photoark-faults/archive", Path(folder) / "log", AWS_ENDPOINT_URL=proxy.url) as run:
            run.finish()
            for fault in NETWORK:
                tallies[fault].injected = proxy.injected[fault]
                tallies[fault].judge(run, expected)

        proxy.plan.rates = {}
        with _Run(bucket.url, "s3://photoark-faults/second", Path(folder) / "log", AWS_ENDPOINT_URL=proxy.url) as run:
            run.start()
            run.wait_for_more_than(0)
            proxy.plan.rates = {"expired": 1}
            assert run.driver is not None
            if run.driver.wait(_PATIENCE_S) and "renew them" not in run.output():
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


def _photos(folder: Path, count: int) -> str:
    """Small photos of coloured squares, each another one."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    chance = np.random.default_rng(0)
    for i in range(count):
        squares = chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(np.kron(squares, np.ones((20, 20, 1), np.uint8))).save(folder / f"{i:04d}.jpg")
    return str(folder)


def _kill(process: psutil.Process) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()

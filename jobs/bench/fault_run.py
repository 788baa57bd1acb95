"""One archive and the process that works on it, which may be killed and started again: for `bench faults`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PhotoarkError

if TYPE_CHECKING:
    import psutil

PATIENCE_S = 180.0
_MAX_RUNS = 8
PHOTOARK = (sys.executable, "-m", "jobs")
KINDS = ("driver", "actor", "worker")
_NAMES = {"actor": ("EncodeWorker",), "worker": ("read_block", "ray::IDLE")}

Rows = dict[str, tuple[str, str]]
"""Key -> outcome and SHA-256 of the stream."""


class Run:
    """One archive, and the process that works on it at present."""

    def __init__(self, source: str, archive: str, log: Path, photoark: Sequence[str] = PHOTOARK, **env: str) -> None:
        self.source, self.archive, self._log = source, archive, log
        self._command = [*photoark, "encode", source, archive, "--codec", "webp", "--json"]
        self._env = {**os.environ, **env}
        self.num_duplicates = 0
        self.driver: psutil.Popen | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended():
            self.kill_driver()

    def start(self) -> None:
        """Start the command."""
        import psutil

        with self._log.open("w") as log:
            self.driver = psutil.Popen(self._command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        """Let it end well, with as many starts as that takes."""
        for _ in range(_MAX_RUNS):
            if self.driver is None:
                self.start()
            assert self.driver is not None
            if self.driver.wait(PATIENCE_S) == 0:
                return
            self.driver = None
        raise PhotoarkError(f"encoding did not end well in {_MAX_RUNS} runs: {self.output()[-500:]}")

    def has_ended(self) -> bool:
        """Whether nothing works on it at present."""
        return self.driver is None or self.driver.poll() is not None

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Until it happened or the driver ended.

        Raises:
            PhotoarkError: neither within minutes.
        """
        end_s = time.monotonic() + PATIENCE_S
        while not happened() and not self.has_ended():
            if time.monotonic() > end_s:
                raise PhotoarkError(f"nothing went on for {PATIENCE_S:.0f} s: {self.output()[-500:]}")
            time.sleep(0.2)

    def wait_for(self, kind: str) -> None:
        """Until there is such a process."""
        self.wait_until(lambda: bool(self.processes(kind)))

    def wait_for_more_than(self, num_committed: int) -> None:
        """Until more than so many photos are committed."""
        self.wait_until(lambda: self.num_committed() > num_committed)

    def output(self) -> str:
        """What the present driver has said."""
        return self._log.read_text(errors="replace")

    def num_encoded(self) -> int:
        """Photos that the present driver says it has the rows of."""
        lines = [line for line in self.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return max((json.loads(line).get("num_done", 0) for line in lines), default=0)

    def num_committed(self) -> int:
        """As a reader sees it now; every look counts rows that are there twice."""
        from pipeline.archive.reader import Archive
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
        from pipeline.archive.care.vacuum import vacuum
        from pipeline.archive.care.verify import verify
        from pipeline.archive.reader import read_rows
        from pipeline.archive.writer import ArchiveWriter

        archive = ArchiveWriter.open(self.archive)
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
            kill(process)
        self.driver.wait()
        self.driver = None


def kill(process: psutil.Process) -> None:
    """End it at once, if it is still there."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()

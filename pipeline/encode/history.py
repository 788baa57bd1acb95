"""What a job did over time, in memory that does not grow with the job."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.on_ray.work import BlockWork

MAX_BINS = 360


@dataclass(slots=True)
class Bin:
    """Some seconds of a job, all actors together."""

    photos: float = 0.0
    pixels: float = 0.0
    codec_s: float = 0.0
    commits: int = 0
    commit_rows: int = 0
    commit_s: float = 0.0
    """Time that the driver spent committing."""

    def add(self, other: Bin) -> None:
        """Take up what another bin holds."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(slots=True)
class ActorHistory:
    """One actor."""

    node: str
    first_s: float
    """Seconds since the job began; the start of the first call and the end of the last one's codec."""
    last_s: float
    codec_s: float = 0.0
    photos: int = 0


@dataclass(slots=True)
class History:
    """Blocks and commits of one job, in bins that widen as it goes on."""

    started_at: float = field(default_factory=time.time)
    """Unix time."""
    bin_s: float = 1.0
    bins: list[Bin] = field(default_factory=list)
    actors: dict[str, ActorHistory] = field(default_factory=dict)
    stages_s: dict[str, float] = field(default_factory=dict)
    """Seconds in each stage, summed over all actors and the driver."""
    first_commit_s: float | None = None
    longest_block_s: float = 0.0

    def add(self, work: BlockWork) -> None:
        """Take up a finished block."""
        # Clocks of machines differ: nothing may lie before the start.
        start_s = max(0.0, work.codec_started_at - self.started_at)
        for stage, took_s in (("read", work.read_s), ("pixels", work.pixels_s), ("wait", work.wait_s), ("codec", work.codec_s)):
            self.stages_s[stage] = self.stages_s.get(stage, 0.0) + took_s
        self.longest_block_s = max(self.longest_block_s, work.codec_s)
        first_s = max(0.0, start_s - work.pixels_s - work.wait_s)
        actor = self.actors.setdefault(work.actor, ActorHistory(work.node, first_s, first_s))
        actor.first_s = min(actor.first_s, first_s)
        actor.last_s = max(actor.last_s, start_s + work.codec_s)
        actor.codec_s += work.codec_s
        actor.photos += work.num_photos
        self._spread(work, start_s)

    def commit(self, num_rows: int, took_s: float) -> None:
        """Take up a commit that has just ended."""
        now_s = max(0.0, time.time() - self.started_at)
        if self.first_commit_s is None:
            self.first_commit_s = now_s
        self.stages_s["commit"] = self.stages_s.get("commit", 0.0) + took_s
        self._bin(now_s).add(Bin(commits=1, commit_rows=num_rows, commit_s=took_s))

    def busy_ratio(self) -> float:
        """Share of the actors' time, from each one's first block to its last, in which their codecs worked."""
        alive_s = sum(actor.last_s - actor.first_s for actor in self.actors.values())
        return sum(actor.codec_s for actor in self.actors.values()) / alive_s if alive_s else 0.0

    def steady(self, margin_s: float) -> tuple[Bin, float]:
        """What was done while every actor was there, less `margin_s` at both ends; and how many actors' seconds that was."""
        first_s = max((actor.first_s for actor in self.actors.values()), default=0.0) + margin_s
        last_s = min((actor.last_s for actor in self.actors.values()), default=0.0) - margin_s
        inside = self.bins[math.ceil(first_s / self.bin_s) : max(0, math.floor(last_s / self.bin_s))]
        total = Bin()
        for one in inside:
            total.add(one)
        return total, len(inside) * self.bin_s * len(self.actors)

    def steady_busy_ratio(self, margin_s: float) -> float:
        """As `busy_ratio`, of the time that `steady` looks at."""
        done, alive_s = self.steady(margin_s)
        return done.codec_s / alive_s if alive_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "started_at": self.started_at,
            "bin_s": self.bin_s,
            "bins": [asdict(one) for one in self.bins],
            "actors": {name: asdict(actor) for name, actor in self.actors.items()},
            "stages_s": {name: round(took_s, 3) for name, took_s in self.stages_s.items()},
            "first_commit_s": self.first_commit_s,
            "codec_busy_ratio": round(self.busy_ratio(), 4),
        }

    def _spread(self, work: BlockWork, start_s: float) -> None:
        """A block's work over the bins in which the codec did it."""
        end_s = start_s + max(work.codec_s, 1e-9)
        self._bin(end_s)
        for i in range(int(start_s / self.bin_s), int(end_s / self.bin_s) + 1):
            inside_s = min(end_s, (i + 1) * self.bin_s) - max(start_s, i * self.bin_s)
            share = inside_s / (end_s - start_s)
            self.bins[i].add(Bin(photos=share * work.num_photos, pixels=share * work.num_pixels, codec_s=share * work.codec_s))

    def _bin(self, at_s: float) -> Bin:
        while at_s >= MAX_BINS * self.bin_s:
            self.bin_s *= 2
            for i in range(0, len(self.bins) - 1, 2):
                self.bins[i].add(self.bins[i + 1])
            self.bins = self.bins[::2]
        i = int(at_s / self.bin_s)
        self.bins += [Bin() for _ in range(i + 1 - len(self.bins))]
        return self.bins[i]

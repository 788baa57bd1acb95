"""A driver as a process of its own: encodes a folder with a codec that only waits, and prints what it saw as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import ray

from cluster.connect import connected
from cluster.watch import watched
from jobs.bench.simulated_codec import SimulatedCodecs
from pipeline.codecs.base import Codec
from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions
from pipeline.encode.history import History
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.on_ray.resources import Market, PoolOptions


@dataclass(frozen=True)
class _Devices:
    """`EncodeJob.codecs` where machines differ."""

    s_per_megapixel: float
    slower: dict[str, float]
    """Label `name` of a machine -> how many times as long its device takes."""

    def __call__(self, points: Iterable[CodecAt], options: CodecOptions) -> list[Codec]:
        name = str(ray.get_runtime_context().get_node_labels().get("name", ""))
        return SimulatedCodecs(self.s_per_megapixel * self.slower.get(name, 1.0))(points, options)


class _Listed(logging.Handler):
    """When the photos were listed, after which they wait for actors."""

    at: float = 0.0
    """Unix time."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "listed":
            self.at = record.created


def main(request: dict[str, Any]) -> None:
    """Keys of `request`: source, archive, address, s_per_megapixel, slower, max_gpus, market, block_photos."""
    job = EncodeJob(
        source=request["source"],
        archive=request["archive"],
        ladder=(CodecAt("simulated"),),
        codecs=_Devices(request["s_per_megapixel"], request.get("slower", {})),
        pool=PoolOptions(max_gpus=request.get("max_gpus"), market=Market(request.get("market", "any"))),
        block_photos=request.get("block_photos", 4),
        commit_interval_s=1.0,
    )
    listed = _Listed()
    log = logging.getLogger("pipeline.encode.job")
    log.setLevel(logging.INFO)
    log.addHandler(listed)
    with connected(request["address"]), watched(0.5) as watch:
        history = History()  # begins when `watch` does
        summary = encode(job, lambda progress: print(json.dumps(asdict(progress)), flush=True), history=history)
    found = {
        "summary": asdict(summary),
        "history": history.as_dict(),
        "listed_s": listed.at - history.started_at,
        "events": [asdict(event) for event in watch.events],
        "elapsed_s": watch.elapsed_s,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

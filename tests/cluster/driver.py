"""A driver as a process of its own: encodes a folder with a codec that only waits, and prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from cluster.connect import connected
from cluster.watch import watched
from jobs.simulated_codec import SimulatedCodecs
from pipeline.codecs.points import CodecAt
from pipeline.stages.encode import EncodeJob, encode
from pipeline.stages.history import History
from pipeline.stages.resources import Market, PoolOptions


def main(request: dict[str, Any]) -> None:
    """Keys of `request`: source, archive, address, s_per_megapixel, max_gpus, market, block_photos."""
    job = EncodeJob(
        source=request["source"],
        archive=request["archive"],
        ladder=(CodecAt("simulated"),),
        codecs=SimulatedCodecs(request["s_per_megapixel"]),
        pool=PoolOptions(max_gpus=request.get("max_gpus"), market=Market(request.get("market", "any"))),
        block_photos=request.get("block_photos", 4),
        commit_interval_s=1.0,
    )
    history = History()
    with connected(request["address"]), watched(0.5) as watch:
        summary = encode(job, lambda progress: print(json.dumps(asdict(progress)), flush=True), history=history)
    found = {
        "summary": asdict(summary),
        "history": history.as_dict(),
        "events": [asdict(event) for event in watch.events],
        "elapsed_s": watch.elapsed_s,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

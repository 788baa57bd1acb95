"""How long machines take to come, and their actors to work: a benchmark, with the real autoscaler and machines that are faked.

python -m tests.cluster.scale_up --period 10 --version v2
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.cluster.machines import autoscaled

ROOT = Path(__file__).parents[2]


def scale_up(
    period_s: Annotated[float, typer.Option("--period", help="Of the autoscaler, in seconds; 5 is Ray's own.")] = 5.0,
    version: Annotated[str, typer.Option(help="Of the autoscaler: v1 or v2, which KubeRay runs.")] = "v2",
    most: Annotated[int, typer.Option(help="Machines.")] = 3,
    idle_timeout_s: Annotated[float, typer.Option("--idle-timeout", help="In seconds.")] = 20.0,
) -> None:
    """Print JSON: seconds from the moment when photos waited for actors, and from the job's end."""
    with tempfile.TemporaryDirectory(prefix="photoark-scale-up-") as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        data = (ROOT / "tests/photos/seeding.tiff").read_bytes()
        for i in range(64 * most):
            (photos / f"{i:04d}.tiff").write_bytes(data)
        with autoscaled(folder, version=version, most=most, idle_timeout_s=idle_timeout_s, period_s=period_s) as cluster:
            request = {
                "source": str(photos), "archive": str(folder / "archive"), "address": cluster.address,
                "s_per_megapixel": 6.0, "max_gpus": most,
            }  # fmt: skip
            command = [sys.executable, "-W", "ignore", "-m", "tests.cluster.driver", json.dumps(request)]
            out = subprocess.run(
                command, cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            ended_s = time.monotonic()
            cluster.wait_until_released(within_s=20 * idle_timeout_s)
            released_s = time.monotonic() - ended_s
    found = json.loads(out.splitlines()[-1])
    history, listed_s = found["history"], found["listed_s"]
    joined = [event["at_s"] for event in found["events"] if event["num_gpus"] and event["joined"]]
    worked = sorted(actor["first_s"] for actor in history["actors"].values())
    result = {
        "version": version,
        "period_s": period_s,
        "joined_s": [round(at_s - listed_s, 1) for at_s in joined],
        "worked_s": [round(at_s - listed_s, 1) for at_s in worked],
        "first_commit_s": round(history["first_commit_s"] - listed_s, 1),
        "idle_timeout_s": idle_timeout_s,
        "released_s": round(released_s, 1),
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(scale_up)

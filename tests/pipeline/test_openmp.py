"""How OpenMP's threads wait, as torch's own OpenMP tells when it is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import ray

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def spin_count(program: str, **chosen: str) -> int:
    """How often a thread looks before it sleeps, as OpenMP prints it in a process that runs `program` and loads torch."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport torch"],
        capture_output=True, text=True, check=True, env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"} | chosen,
    )  # fmt: skip
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", result.stderr)
    assert found
    return int(found[1])


@pytest.mark.parametrize("door", ["import pipeline", "import jobs.cli", "import cluster.serving"])
def test_threads_that_wait_sleep_in_whatever_process_loads_torch(door: str) -> None:
    assert spin_count(door) == 0


def test_what_the_user_chose_stays() -> None:
    assert spin_count("import pipeline", GOMP_SPINCOUNT="5") == 5
    assert spin_count("import pipeline", OMP_WAIT_POLICY="ACTIVE") > 1_000_000


def test_workers_of_ray_wait_as_the_process_that_started_them(ray_session: None) -> None:
    look = ray.remote(lambda: os.environ.get("OMP_WAIT_POLICY"))
    assert ray.get(look.remote()) == os.environ["OMP_WAIT_POLICY"]

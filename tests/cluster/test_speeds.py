"""A machine that is slower than another takes fewer photos, and nobody waits long for it at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.on_ray.resources import MAX_BLOCK_PHOTOS
from tests.cluster.conftest import assert_holds_each_once
from tests.cluster.machines import machines

pytestmark = pytest.mark.cluster

NUM_PHOTOS = 96
S_PER_MEGAPIXEL = 3.0
SLOWER = 4.0


def test_a_gpu_that_is_four_times_faster_takes_four_times_the_photos(
    photos: Callable[[int], Path], driver: Any, tmp_path: Path
) -> None:
    source = photos(NUM_PHOTOS)
    with machines(tmp_path) as cluster:
        for name in ("quick", "slow"):
            cluster.add(name)
        request = {
            "source": str(source), "archive": str(tmp_path / "archive"), "address": cluster.address,
            "s_per_megapixel": S_PER_MEGAPIXEL, "slower": {"slow": SLOWER}, "block_photos": None,
        }  # fmt: skip
        found = driver(cluster.environment, **request).result()

    assert_holds_each_once(tmp_path / "archive", NUM_PHOTOS)
    quick, slow = sorted(found["history"]["actors"].values(), key=lambda actor: actor["codec_s"] / actor["photos"])
    photo_s = slow["codec_s"] / slow["photos"]
    assert photo_s == pytest.approx(SLOWER * quick["codec_s"] / quick["photos"], rel=0.1)
    # Of the time that each was there: on a busy machine one may start much later.
    rates = [actor["photos"] / (actor["last_s"] - actor["first_s"]) for actor in (quick, slow)]
    assert rates[0] == pytest.approx(SLOWER * rates[1], rel=0.3)
    assert abs(quick["last_s"] - slow["last_s"]) < MAX_BLOCK_PHOTOS * photo_s

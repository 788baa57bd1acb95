"""SSIMULACRA 2 against scores that the original C++ program gave for pictures that can be made again.

Those scores are published with the Rust port by Imazen (reference_data.rs); the C++ blur runs recursively in float32, whose
rounding shows in pictures of one colour alone.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.base import Pixels
from pipeline.pixels.formats.reader import read_pixels
from pipeline.quality.ssimulacra2 import ssimulacra2


def flat(side: int, level: int) -> Pixels:
    return np.full((side, side, 3), level, np.uint8)


def gradient(side: int) -> Pixels:
    row = (np.arange(side) * 255 // (side - 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (side, side, 3)))


def noise(side: int, seed: int) -> Pixels:
    """Of the linear congruential generator that made the reference's."""
    state, values = seed, bytearray()
    for _ in range(side * side * 3):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 255)
    return np.frombuffer(bytes(values), np.uint8).reshape(side, side, 3)


@pytest.mark.parametrize(
    ("original", "sha256", "score"),
    [(gradient(64), "bfcfaa0618d2", -64.56872148), (noise(64, 42), "7f6be7f433cc", -47.33572558)],
)
def test_structure_that_is_lost_scores_as_in_the_original_program(original: Pixels, sha256: str, score: float) -> None:
    assert hashlib.sha256(original.tobytes()).hexdigest()[:12] == sha256
    assert ssimulacra2(original, flat(64, 128)) == pytest.approx(score, abs=0.005)


@pytest.mark.parametrize(
    ("side", "shift", "score"),
    [(64, 50, -8.75942256), (128, 20, 54.27883917), (128, 50, -9.82383315), (256, 20, 59.77892918), (256, 50, -0.39085784)],
)
def test_another_grey_scores_as_in_the_original_program(side: int, shift: int, score: float) -> None:
    assert ssimulacra2(flat(side, 128), flat(side, 128 + shift)) == pytest.approx(score, abs=0.15)


def test_equal_photos_score_100_and_better_copies_score_more(photo_files: dict[str, bytes]) -> None:
    photo = read_pixels(photo_files["wine.jpg"])
    assert ssimulacra2(photo, photo) == 100
    scores = []
    for quality in (10, 40, 90):
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
        scores.append(ssimulacra2(photo, np.asarray(Image.open(buffer))))
    assert scores[0] < 30 < scores[1] < 75 < scores[2] < 100


def test_odd_sides_are_scored_and_wrong_ones_refused() -> None:
    assert ssimulacra2(noise(67, 1)[:45], noise(67, 2)[:45]) < 0
    with pytest.raises(ValueError, match="at least 8"):
        ssimulacra2(flat(7, 0), flat(7, 0))
    with pytest.raises(ValueError, match="one shape"):
        ssimulacra2(flat(16, 0), flat(17, 0))

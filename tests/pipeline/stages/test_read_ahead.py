"""Photos are read a little ahead of the codec, and no further: what waits must not grow with the job."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.data._internal.stats import _StatsManager

from jobs.bench.simulated_codec import NAME, SimulatedCodecs
from jobs.bench.store import photo
from pipeline.archive.reader import Archive
from pipeline.codecs.points import CodecAt
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode

NUM_PHOTOS = 1200
BLOCK_PHOTOS = 4
MEGAPIXELS = 0.003
BLOCK_S = 0.03


@pytest.mark.usefixtures("ray_session")
def test_most_photos_are_not_read_before_their_time_comes(tmp_path: Path) -> None:
    source, data = tmp_path / "photos", photo(MEGAPIXELS)
    source.mkdir()
    for i in range(NUM_PHOTOS):
        (source / f"{i:04d}.jpg").write_bytes(data)
    job = EncodeJob(
        source=str(source), archive=str(tmp_path / "archive"), ladder=(CodecAt(NAME),), block_photos=BLOCK_PHOTOS,
        codecs=SimulatedCodecs(BLOCK_S / BLOCK_PHOTOS / MEGAPIXELS),
    )  # fmt: skip
    left = 0

    def take_away(num_done: int) -> None:
        """Half-way, all photos: of those that still come out, the bytes had been read."""
        nonlocal left
        if num_done >= NUM_PHOTOS / 2 and not left:
            left = NUM_PHOTOS - num_done
            for path in source.iterdir():
                path.unlink()

    summary = encode(job, lambda progress: take_away(progress.num_done))
    # While the actor started, reading had nothing to keep pace with: hence not a few blocks, but far from all that was left.
    read_before = summary.num_encoded - (NUM_PHOTOS - left)
    assert 0 < read_before < 0.75 * left
    assert summary.num_failed == left - read_before
    assert len(Archive.open(job.archive).keys()) == NUM_PHOTOS


@pytest.mark.usefixtures("ray_session")
def test_notes_of_all_blocks_are_not_sent_about_while_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(8):
        (tmp_path / "photos" / f"{i}.txt").write_bytes(bytes([i]) * 300)
    job = EncodeJob(source=str(tmp_path / "photos"), archive=str(tmp_path / "archive"), codec="original", block_photos=2)
    sent: list[object] = []
    monkeypatch.setattr(_StatsManager, "update_iteration_metrics", lambda stats, *_: sent.append(stats))
    sent_then: list[int] = []
    encode(job, lambda _: sent_then.append(len(sent)))
    assert sent_then == [0] * 4
    assert sent, "Ray Data has another name for it"

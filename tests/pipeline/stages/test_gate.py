"""A stream stands for its photo only if it decodes well enough; if not, the next codec has its turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.archive.commit import Archive
from pipeline.archive.shard_reader import read_rows
from pipeline.codecs.points import CodecAt, parse_ladder
from pipeline.codecs.registry import CodecOptions
from pipeline.errors import SettingError
from pipeline.quality.gate import NO_GATE, parse_gate
from pipeline.quality.metrics import measure
from pipeline.records import EncodedPhoto, Outcome
from pipeline.restoration import restore
from pipeline.stages.encode import EncodeJob, encode

PHOTOS = Path(__file__).parents[2] / "photos"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth photo, a detailed one, text, and one too small for MS-SSIM."""
    folder = tmp_path_factory.mktemp("source")
    bridge = Image.open(PHOTOS / "bridge.jpg").convert("RGB")
    bridge.crop((300, 0, 620, 200)).save(folder / "sky.png")
    Image.open(PHOTOS / "brushes.jpg").convert("RGB").crop((0, 300, 320, 620)).save(folder / "brushes.png")
    bridge.crop((300, 0, 360, 50)).save(folder / "small.png")
    text = Image.new("RGB", (320, 200), "white")
    for top in range(5, 190, 14):
        ImageDraw.Draw(text).text((5, top), "Small print, which a codec for photos blurs: 0123456789", fill="black")
    text.save(folder / "text.png")
    return folder


def encoded(source: Path, archive: Path, ladder: str, gate: str) -> dict[str, EncodedPhoto]:
    job = EncodeJob(source=str(source), archive=str(archive), ladder=parse_ladder(ladder), gate=parse_gate(gate))
    summary = encode(job)
    assert summary.num_failed == 0
    return {row.key: row for row in read_rows(Archive.open(str(archive)))}


def test_each_photo_takes_the_first_rung_that_passes(source: Path, tmp_path: Path) -> None:
    rows = encoded(source, tmp_path / "archive", "ditic-small:4,webp:60,webp:95,original", "psnr=31")
    assert set(rows) == {"sky.png", "brushes.png", "small.png", "text.png"}
    for key, row in rows.items():
        original = np.asarray(Image.open(source / key).convert("RGB"))
        restored = tmp_path / key
        restored.write_bytes(restore(str(tmp_path / "archive"), key).data)
        quality = measure(original, np.asarray(Image.open(restored).convert("RGB")))
        if row.outcome is Outcome.KEPT:
            assert restored.read_bytes() == (source / key).read_bytes()
            continue
        assert row.psnr is not None
        assert row.psnr >= 31
        assert quality.psnr == pytest.approx(row.psnr, abs=0.02)
    # By measurement: the smooth sky is well served by the first rung, small print is not.
    assert (rows["sky.png"].codec, rows["sky.png"].reason) == ("ditic-small", None)
    assert rows["text.png"].codec in ("webp", "original")
    assert "ditic-small:4: PSNR" in (rows["text.png"].reason or "")
    assert "is under 31" in (rows["text.png"].reason or "")


def test_what_passes_no_rung_is_kept_as_its_bytes_with_every_reason(source: Path, tmp_path: Path) -> None:
    rows = encoded(source, tmp_path / "archive", "webp:1,webp:5", "ms_ssim=0.9999")
    for key, row in rows.items():
        assert row.outcome is Outcome.KEPT
        assert row.image == (source / key).read_bytes()
        assert (row.reason or "").count("MS-SSIM") == 2
    assert "cannot be measured" in (rows["small.png"].reason or "")


def test_without_a_gate_nothing_is_measured_and_the_first_rung_serves(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp", options=CodecOptions(quality=1))
    assert job.rungs == (CodecAt("webp", 1),)
    encode(job)
    rows = list(read_rows(Archive.open(str(tmp_path / "archive"))))
    assert [(row.codec, row.psnr, row.ms_ssim, row.reason) for row in rows] == [("webp", None, None, None)] * 4


@pytest.mark.parametrize(("gate", "message"), [("ssim=1", "no metric"), ("psnr", "no number"), ("psnr=a", "no number")])
def test_wrong_gates_are_told(gate: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_gate(gate)


def test_a_quality_that_a_rung_lacks_starts_nothing(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), ladder=parse_ladder("ditic-small:9"), gate=NO_GATE)
    with pytest.raises(SettingError, match="1 to 4"):
        encode(job)
    assert not (tmp_path / "archive").exists()

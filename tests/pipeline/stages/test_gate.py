"""A stream stands for its photo only if it decodes well enough; if not, the next codec has its turn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import CodecAt, parse_ladder
from pipeline.codecs.registry import CodecOptions, get_codec
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.retry import retry
from pipeline.encode.run import encode
from pipeline.errors import ArchiveDamagedError, PhotoError, SettingError
from pipeline.quality.gate import NO_GATE, parse_gate
from pipeline.quality.metrics import measure
from pipeline.quality.scorer import Scorer
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome

pytestmark = pytest.mark.usefixtures("ray_session")

PHOTOS = Path(__file__).parents[2] / "photos"


def _screenshot(photo: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (320, 200), (236, 236, 236))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 320, 18), fill=(60, 90, 160))
    draw.text((6, 4), "File  Edit  View  Help", fill="white")
    for i in range(4):
        draw.rectangle((10, 30 + 40 * i, 150, 60 + 40 * i), fill="white", outline=(120, 120, 120))
        draw.text((16, 38 + 40 * i), f"Button number {i}", fill=(20, 20, 20))
    picture.paste(photo.crop((300, 100, 440, 200)), (170, 30))
    return picture


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """What is no photo: one colour, text, a screenshot, six pixels; and a sky to compare with."""
    folder = tmp_path_factory.mktemp("drawn")
    Image.new("RGB", (320, 200), (0, 0, 255)).save(folder / "flat.png")
    Image.new("RGB", (3, 2), (0, 255, 0)).save(folder / "tiny.png")
    _screenshot(Image.open(PHOTOS / "bridge.jpg").convert("RGB")).save(folder / "screenshot.png")
    for name in ("text.png", "sky.png"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


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
    return {row.key: row for row in read_rows(ArchiveWriter.open(str(archive)))}


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
    rows = list(read_rows(ArchiveWriter.open(str(tmp_path / "archive"))))
    assert {(row.psnr, row.ms_ssim) for row in rows} == {(None, None)}
    served = {row.key: (row.codec, row.reason) for row in rows}
    text = (source / "text.png").stat().st_size  # drawn, so that no stream is smaller
    assert (served.pop("text.png")[1] or "").endswith(f" bytes of {text}")
    assert set(served.values()) == {("webp", None)}


def test_what_is_no_photo_takes_another_rung_by_measurement(drawn: Path, tmp_path: Path) -> None:
    gate = parse_gate("psnr=34,perceptual=0.1")
    rows = encoded(drawn, tmp_path / "archive", "ditic-small,avif:70,original", "psnr=34,perceptual=0.1")
    scorer = Scorer(only=gate.metrics)
    codec = get_codec("ditic-small")
    for key, row in rows.items():
        original = np.asarray(Image.open(drawn / key).convert("RGB"))
        (stream,) = codec.encode([original])
        (decoded,) = codec.decode([stream])
        refusal = gate.refusal(scorer.measure(original, decoded))
        if refusal is None and len(stream) >= (drawn / key).stat().st_size:
            refusal = "its stream is larger than the file"
        # Which rung serves is what the first one measures, for a photo as for a drawing.
        assert (row.codec == "ditic-small") == (refusal is None), (key, refusal)
        assert (row.reason is None) == (refusal is None)
        assert row.reason is None or row.reason.startswith(("ditic-small: ", "ditic-small made "))
        if row.outcome is Outcome.ENCODED:
            assert row.psnr is not None and row.psnr >= 34
            assert row.perceptual is not None and row.perceptual <= 0.1
            assert (row.ssimulacra2, row.lpips, row.dists) == (None, None, None)
    assert rows["sky.png"].codec == "ditic-small"
    assert {rows[key].codec for key in ("text.png", "screenshot.png", "tiny.png")} <= {"avif", "original"}


def test_any_metric_may_be_asked_for_and_originals_stand_beside_streams(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(
        source=str(source),
        archive=str(tmp_path / "archive"),
        ladder=parse_ladder("webp:5,webp:90"),
        gate=parse_gate("ssimulacra2=75"),
        keep_original=KeepOriginal.ALWAYS,
    )
    assert encode(job).num_failed == 0
    archive = ArchiveWriter.open(job.archive)
    rows = {row.key: row for row in read_rows(archive)}
    brushes = rows["brushes.png"]
    assert (brushes.codec, brushes.original) == ("webp", (source / "brushes.png").read_bytes())
    assert "webp:5: SSIMULACRA2" in (brushes.reason or "")
    assert (brushes.ssimulacra2 or 0) >= 75
    # A file that is kept stands there once.
    assert "SSIMULACRA2 cannot be measured" in (rows["small.png"].reason or "")
    assert (rows["small.png"].outcome, rows["small.png"].original) == (Outcome.KEPT, None)
    assert verify(archive).is_clean

    archive.commit([replace(brushes, key="bare.png", original=None)])
    with pytest.raises(PhotoError, match="--keep-original always"):
        restore(job.archive, "bare.png", original=True)
    for path in source.iterdir():
        assert restore(job.archive, path.name, original=True).data == path.read_bytes()
    assert restore(job.archive, "brushes.png").data != (source / "brushes.png").read_bytes()
    summary = decode(DecodeJob(archive=job.archive, destination=str(tmp_path / "restored"), original=True))
    assert (summary.num_restored, [key for key, _ in summary.failures]) == (4, ["bare.png"])
    for path in source.iterdir():
        assert (tmp_path / "restored" / path.name).read_bytes() == path.read_bytes()

    archive.put([replace(brushes, original=b"another file")])
    (damage,) = verify(archive).damages
    assert damage.keys == ("brushes.png",) and "original" in damage.what
    with pytest.raises(ArchiveDamagedError, match="not the one that was read"):
        restore(job.archive, "brushes.png", original=True)


def test_a_metric_without_its_weights_starts_nothing(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp", gate=parse_gate("lpips=0.2"))
    with pytest.raises(SettingError, match="--lpips-weights"):
        encode(job)
    assert not (tmp_path / "archive").exists()


def test_equal_pixels_pass_any_psnr() -> None:
    assert parse_gate("psnr=99").refusal({"psnr": math.inf}) is None


def test_where_bytes_are_never_kept_what_passes_no_rung_fails_with_every_reason(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(
        source=str(source),
        archive=str(tmp_path / "archive"),
        ladder=parse_ladder("webp:1,webp:5"),
        gate=parse_gate("ms_ssim=0.9999"),
        keep_original=KeepOriginal.NEVER,
    )
    assert encode(job).num_failed == 4
    rows = list(read_rows(ArchiveWriter.open(job.archive)))
    assert all(row.outcome is Outcome.FAILED and row.image is None and row.original is None for row in rows)
    assert all((row.reason or "").count("MS-SSIM") == 2 and "--keep-original" in (row.reason or "") for row in rows)
    assert verify(ArchiveWriter.open(job.archive)).is_clean
    assert retry(replace(job, gate=NO_GATE)).num_encoded == 4
    with pytest.raises(SettingError, match="original"):
        replace(job, ladder=parse_ladder("webp:1,original"))


@pytest.mark.parametrize(
    ("gate", "message"), [("ssim=1", "no metric"), ("psnr", "no number"), ("psnr=a", "no number"), ("psnr=nan", "no number")]
)
def test_wrong_gates_are_told(gate: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_gate(gate)


def test_a_quality_that_a_rung_lacks_starts_nothing(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), ladder=parse_ladder("ditic-small:9"), gate=NO_GATE)
    with pytest.raises(SettingError, match="1 to 4"):
        encode(job)
    assert not (tmp_path / "archive").exists()

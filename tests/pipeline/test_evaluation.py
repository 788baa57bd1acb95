"""What `photoark evaluate` measures, against files that anybody can measure."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions
from pipeline.errors import SettingError
from pipeline.evaluation.run import Evaluation, at_equal_rate, evaluate
from pipeline.progress import Progress
from pipeline.quality.scorer import Scorer

POINTS = [CodecAt(codec=codec, quality=q) for codec in ("webp", "jpeg") for q in (10, 60)]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("wine.jpg", "sunset.png", "seeding.tiff"):
        (folder / name).write_bytes(photo_files[name])
    with Image.open(io.BytesIO(photo_files["wine.jpg"])) as image:
        image.crop((0, 500, 120, 700)).save(folder / "small.png")
    (folder / "cut.jpg").write_bytes(photo_files["wine.jpg"][:20000])
    return folder


@pytest.fixture(scope="module")
def result(folder: Path, scorer: Scorer) -> Evaluation:
    seen: list[Progress] = []
    result = evaluate(str(folder), POINTS, scorer, options=CodecOptions(), on_progress=seen.append)
    assert (seen[-1].num_done, seen[-1].num_total, seen[-1].num_failed) == (17, 17, 1)
    return result


def test_rate_and_quality_are_those_of_real_streams(result: Evaluation, folder: Path) -> None:
    with Image.open(folder / "sunset.png") as image:
        original = image.convert("RGB")
    buffer = io.BytesIO()
    original.save(buffer, "JPEG", quality=60, optimize=True, subsampling="4:2:0")
    (found,) = [m for m in result.measured if m.photo == "sunset.png" and m.at == CodecAt(codec="jpeg", quality=60)]
    assert found.num_bytes == len(buffer.getvalue())
    assert found.bpp == pytest.approx(8 * found.num_bytes / (found.width * found.height))
    error = np.asarray(Image.open(buffer)).astype(float) - np.asarray(original)
    assert found.scores["psnr"] == pytest.approx(10 * math.log10(255**2 / np.square(error).mean()))
    assert {m.key for m in result.metrics} == {"psnr", "ms_ssim", "ssimulacra2", "perceptual"} == set(found.scores)


def test_a_photo_that_cannot_be_read_is_said_once_and_has_no_part(result: Evaluation) -> None:
    (failure,) = result.failed
    assert (failure.photo, failure.at) == ("cut.jpg", None)
    assert "truncated" in failure.reason
    assert result.photos == ["seeding.tiff", "small.png", "sunset.png", "wine.jpg"]
    assert len(result.measured) == len(POINTS) * 4


def test_small_photos_have_no_score_where_it_would_not_compare(result: Evaluation) -> None:
    (small,) = {tuple(m.scores[key] is None for key in m.scores) for m in result.measured if m.photo == "small.png"}
    assert small == (False, True, True, False)


def test_a_point_of_a_curve_is_the_mean_over_photos(result: Evaluation) -> None:
    means = result.means()
    assert [mean.at for mean in means] == POINTS
    rows = [m for m in result.measured if m.at == POINTS[1]]
    assert means[1].bpp == pytest.approx(np.mean([m.bpp for m in rows]))
    for key in ("psnr", "ssimulacra2"):
        scores = [m.scores[key] for m in rows if m.scores[key] is not None]
        assert means[1].scores[key] == pytest.approx(np.mean(scores))  # type: ignore[arg-type]
    assert means[0].bpp < means[1].bpp


def test_a_photo_that_one_codec_refuses_counts_for_none(folder: Path, tmp_path: Path, scorer: Scorer) -> None:
    for name in ("small.png", "sunset.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    Image.new("RGB", (16400, 20), (90, 120, 30)).save(tmp_path / "wide.png")  # WebP ends at 16383
    result = evaluate(str(tmp_path), [POINTS[3], POINTS[0]], scorer, options=CodecOptions())
    (failure,) = result.failed
    assert (failure.photo, str(failure.at)) == ("wide.png", "webp:10")
    assert "16383" in failure.reason
    assert "wide.png" in {m.photo for m in result.measured}
    bpp = [m.bpp for m in result.measured if m.at == POINTS[3] and m.photo != "wide.png"]
    assert result.means()[0].bpp == pytest.approx(np.mean(bpp))


def test_bd_rate_is_of_the_curves(result: Evaluation) -> None:
    rates = result.bd_rates("jpeg")
    assert set(rates) == {"webp"}
    assert rates["webp"]["psnr"].percent is not None
    assert -60 < rates["webp"]["psnr"].percent < -10
    other = result.bd_rates("webp")["jpeg"]["psnr"].percent
    assert other is not None
    assert (1 + rates["webp"]["psnr"].percent / 100) * (1 + other / 100) == pytest.approx(1)


def test_lossless_points_are_no_part_of_the_curve_of_psnr(folder: Path, tmp_path: Path, scorer: Scorer) -> None:
    (tmp_path / "small.png").write_bytes((folder / "small.png").read_bytes())
    points = [CodecAt(codec="original", quality=None), POINTS[2], POINTS[3]]
    result = evaluate(str(tmp_path), points, scorer, options=CodecOptions())
    (file,) = [m for m in result.measured if m.at == points[0]]
    assert file.num_bytes == (tmp_path / "small.png").stat().st_size
    assert (file.scores["psnr"], file.scores["perceptual"]) == (None, 0)
    rate = result.bd_rates("jpeg")["original"]["psnr"]
    assert (rate.percent, rate.reason) == (None, "fewer than two qualities")


def test_the_worst_photo_of_the_first_codec_comes_first(result: Evaluation) -> None:
    def distance(photo: str) -> float:
        return sum(m.scores["perceptual"] or 0 for m in result.measured if m.photo == photo and m.at.codec == "webp")

    worst = result.worst_first()
    assert sorted(worst) == result.photos
    assert [distance(photo) for photo in worst] == sorted(map(distance, worst), reverse=True)


def test_photos_to_look_at_have_nearly_equal_rates(result: Evaluation) -> None:
    shown = list(at_equal_rate(result, ["sunset.png", "wine.jpg"], options=CodecOptions()))
    assert [r.at.codec for r in shown] == ["webp"] * 2 + ["jpeg"] * 2
    for photo in ("sunset.png", "wine.jpg"):
        webp, jpeg = (r for r in shown if r.photo == photo)
        assert webp.at in POINTS
        assert jpeg.bpp == pytest.approx(webp.bpp, rel=0.06)
        assert np.array_equal(webp.original, jpeg.original)
        assert not np.array_equal(webp.decoded, jpeg.decoded)


def test_what_cannot_be_evaluated_is_told_before_anything_is_started(folder: Path, tmp_path: Path, scorer: Scorer) -> None:
    for source, point, message in (
        (folder, CodecAt(codec="gif", quality=1), "no codec"),
        (folder, CodecAt(codec="avif", quality=101), "between 1 and 100"),
        (tmp_path, POINTS[0], "no files"),
        (tmp_path / "absent", POINTS[0], "does not exist"),
    ):
        with pytest.raises(SettingError, match=message):
            evaluate(str(source), [POINTS[0], point], scorer, options=CodecOptions(), on_progress=_begun)


def _begun(progress: Progress) -> None:
    pytest.fail(f"{progress.num_done} photos were begun")

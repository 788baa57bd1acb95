from __future__ import annotations

import numpy as np
import pytest

from pipeline.quality.contact_sheet import CROP_SIDE, busiest_square, contact_sheet, crops_strip, strip


def test_busiest_square_is_where_the_detail_is() -> None:
    photo = np.full((700, 1000, 3), 128, np.uint8)
    photo[300:600, 600:900] = np.random.default_rng(0).integers(0, 256, (300, 300, 3))
    assert busiest_square(photo, 300) == (300, 600)


def test_detail_is_shown_pixel_for_pixel() -> None:
    original = np.full((700, 1000, 3), 128, np.uint8)
    original[300:600, 600:900] = np.random.default_rng(0).integers(0, 256, (300, 300, 3))
    shown = np.asarray(strip(original, np.subtract(255, original, dtype=np.uint8), caption="noise, inverted"))
    detail = original[300:600, 600:900]
    crops = shown[30 : 30 + CROP_SIDE, -2 * (CROP_SIDE + 12) :]
    assert np.array_equal(crops[:, :CROP_SIDE], detail)
    assert np.array_equal(crops[:, CROP_SIDE + 12 : -12], 255 - detail)


def test_parts_stand_side_by_side_pixel_for_pixel() -> None:
    parts = np.random.default_rng(0).integers(0, 256, (3, CROP_SIDE, CROP_SIDE, 3), dtype=np.uint8)
    shown = np.asarray(crops_strip([("original", parts[0]), ("a", parts[1]), ("b", parts[2])], caption="noise"))
    for i, part in enumerate(parts):
        left = 12 + i * (CROP_SIDE + 12)
        assert np.array_equal(shown[60 : 60 + CROP_SIDE, left : left + CROP_SIDE], part)
    assert crops_strip([("small", parts[0][:20, :30])], caption="small").width == CROP_SIDE + 24


@pytest.mark.parametrize(("height", "width"), [(1, 1), (40, 2000), (2000, 40), (299, 301)])
def test_any_size_fits(height: int, width: int) -> None:
    photo = np.full((height, width, 3), 200, np.uint8)
    first = strip(photo, photo, caption="flat")
    sheet = contact_sheet([first, first], title="two flat photos")
    assert sheet.width == first.width
    assert sheet.height > 2 * first.height
    assert (np.asarray(first) == 200).all(axis=-1).sum() >= 4 * min(height * width, 300)


def test_no_photos_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], title="none")

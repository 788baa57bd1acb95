"""Names of up to 255 bytes are restored, however few characters they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.test_15_names_and_keys import there_and_back
from tests.cases.tiny import png

NAMES = ("漢" * 83 + ".png", "e\u0301" * 83 + ".png", "\U0001f600" * 62 + ".png", "a" * 251 + ".png", "я" * 125 + ".png")


@pytest.mark.usefixtures("ray_session")
def test_long_names_come_back(tmp_path: Path) -> None:
    photos = {name.encode(): png(i) for i, name in enumerate(NAMES)}
    assert there_and_back(photos, {name.encode(): name for name in NAMES}, tmp_path / "src") == photos

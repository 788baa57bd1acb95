"""Codecs at qualities, as a person writes them, and what they share."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.points import codecs_at, parse_ladder, parse_points
from pipeline.codecs.registry import CodecOptions
from pipeline.entropy.container import unpack
from pipeline.errors import SettingError


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("avif", ["avif"]),
        ("ditic-small:1..3", ["ditic-small:1", "ditic-small:2", "ditic-small:3"]),
        ("jpeg:5,8..9,70", ["jpeg:5", "jpeg:8", "jpeg:9", "jpeg:70"]),
        ("ditic-small:4, webp:60,95,original", ["ditic-small:4", "webp:60", "webp:95", "original"]),
        ("jpeg:5,5,jpeg:5", ["jpeg:5"]),
    ],
)
def test_codecs_and_qualities_are_read(text: str, points: list[str]) -> None:
    assert [str(point) for point in parse_points(text)] == points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpeg2000", "no codec"),
        ("60,avif", "no codec is called '60'"),
        ("jpeg:", "'' is no quality"),
        ("jpeg:high", "'high' is no quality"),
        ("jpeg:5,high", "no codec is called 'high'"),
        ("jpeg:9..5", "9..5 is empty"),
        ("original,avif", "last"),
    ],
)
def test_what_is_wrong_is_told(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_ladder(text)


def test_neighbours_of_one_codec_share_its_network() -> None:
    points = parse_points("ditic-small:1,ditic-small:4,webp:5,90")
    codecs = list(codecs_at(points, CodecOptions(device="cpu")))
    low, high = codecs[:2]
    assert isinstance(low, DiTICCodec)
    assert isinstance(high, DiTICCodec)
    assert low.model is high.model
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert [unpack(codec.encode([photo])[0])[0].quality for codec in (low, high)] == [1, 4]
    small, large = (len(codec.encode([photo])[0]) for codec in codecs[2:])
    assert small < large


def test_a_quality_that_a_codec_lacks_is_told() -> None:
    for text in ("ditic-small:1,5", "webp:50,101"):
        with pytest.raises(SettingError, match=r"between 1 and 100|1 to 4"):
            list(codecs_at(parse_points(text), CodecOptions(device="cpu")))

"""A DiT-IC of the smallest shape with random weights, frozen: exactness does not depend on training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.pixels.formats.reader import read_pixels
from pipeline.training.freeze import freeze_model

PHOTOS = Path(__file__).parents[3] / "photos"


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """Crops of real photos, of mixed sizes."""
    files = sorted(p for p in PHOTOS.iterdir() if p.suffix in {".jpg", ".png", ".webp"})
    sizes = [(200, 300), (128, 128), (300, 200), (96, 400)]
    return [read_pixels(f.read_bytes())[:h, :w].copy() for f, (h, w) in zip(files, sizes, strict=False)]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = DiTIC(DiTICConfig.tiny())
    with torch.no_grad():
        # Random weights give latents near zero; spread them so that symbols of many sizes are coded.
        model.codec.g_a.shrink.weight.mul_(5)
    freeze_model(model, path, photos, {"data": "none"})
    return path


@pytest.fixture(scope="session")
def tiny(tiny_weights: Path) -> DiTICCodec:
    return DiTICCodec.load(tiny_weights)

"""LPIPS and DISTS against what their authors' packages gave for the same random weights and photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.quality.learned import DISTS, LPIPS

ALEXNET = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
ALEXNET_NAMES = ["slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10"]
VGG_WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG_NAMES = ["1.0", "1.2", "2.5", "2.7", "3.10", "3.12", "3.14", "4.17", "4.19", "4.21", "5.24", "5.26", "5.28"]


def convolutions(shapes: list[tuple[int, int, int]], names: list[str]) -> dict[str, Tensor]:
    """Random weights that keep the size of what goes through."""
    rng = np.random.default_rng(7)
    state = {}
    for (num_out, num_in, size), name in zip(shapes, names, strict=True):
        kernel = rng.standard_normal((num_out, num_in, size, size), dtype=np.float32) * np.sqrt(2 / (num_in * size**2))
        state[f"{name}.weight"] = torch.from_numpy(kernel.astype(np.float32))
        state[f"{name}.bias"] = torch.from_numpy(0.1 * rng.standard_normal(num_out, dtype=np.float32))
    return state


def lpips_state() -> dict[str, Tensor]:
    """A state dict as that of `lpips.LPIPS(net="alex")`."""
    rng = np.random.default_rng(8)
    state = {f"net.{key}": tensor for key, tensor in convolutions(ALEXNET, ALEXNET_NAMES).items()}
    for i, (channels, *_) in enumerate(ALEXNET):
        state[f"lin{i}.model.1.weight"] = torch.from_numpy(rng.random((1, channels, 1, 1), dtype=np.float32))
    return {**state, "scaling_layer.shift": torch.zeros(1), "scaling_layer.scale": torch.ones(1)}


def dists_state() -> dict[str, Tensor]:
    """A state dict as that of `DISTS_pytorch.DISTS()`."""
    rng = np.random.default_rng(9)
    shapes = [(n, before, 3) for before, n in zip([3, *VGG_WIDTHS], VGG_WIDTHS, strict=False)]
    state = {f"stage{key}": tensor for key, tensor in convolutions(shapes, VGG_NAMES).items()}
    for pooling, channels in (("2.4", 64), ("3.9", 128), ("4.16", 256), ("5.23", 512)):
        state[f"stage{pooling}.filter"] = torch.zeros(channels, 1, 3, 3)
    for name in ("alpha", "beta"):
        state[name] = torch.from_numpy(rng.random((1, 1475, 1, 1), dtype=np.float32))
    return state


def photos() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(10)
    original = np.kron(rng.integers(0, 200, (14, 18, 3), dtype=np.uint8), np.ones((7, 7, 1), np.uint8))
    return original, original + rng.integers(0, 56, original.shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, state in (("lpips", lpips_state()), ("dists", dists_state())):
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in ("lpips", "dists")}


def test_lpips_is_that_of_its_authors(files: dict[str, Path]) -> None:
    lpips = LPIPS.load(files["lpips"])
    original, decoded = photos()
    assert lpips.between(original, decoded) == pytest.approx(0.23611853, rel=1e-4)  # by lpips 0.1.4
    assert lpips.between(original, original) == 0


def test_dists_is_that_of_its_authors(files: dict[str, Path]) -> None:
    dists = DISTS.load(files["dists"])
    original, decoded = photos()
    assert dists.between(original, decoded) == pytest.approx(0.10456657, rel=1e-4)  # by dists-pytorch 0.1
    assert dists.between(original, original) == pytest.approx(0, abs=1e-5)


def test_other_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"net": [1, 2]}, tmp_path / "list.pth")
    for load in (LPIPS.load, DISTS.load):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load(tmp_path / "text.pth")
        with pytest.raises(CheckpointError, match="no state dict"):
            load(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="other weights"):
        LPIPS.load(files["dists"])
    with pytest.raises(CheckpointError, match="other weights"):
        DISTS.load(files["lpips"])

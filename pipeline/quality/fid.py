"""FID: how far the decoded photos, as a set, are from the originals as a set, in what Inception sees.

    photos ─► patches of 256 x 256 ─► Inception, 2048 numbers each ─► a Gaussian for each set ─► Frechet distance of the two

It asks whether pictures look like photos, not whether each looks like its own: a codec may invent and score well. It needs
far more patches than features, so patches are taken as in HiFiC (Mentzer et al., "High-Fidelity Generative Image Compression",
2020, A.7): side by side, and once more shifted by half a patch; FID/256. The network and the distance are torch-fidelity's,
which agree with the original program (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017).

The weights do not come with this program. They are one file, weights-inception-2015-12-05-6726825d.pth, that torch-fidelity
publishes with its release 0.2.0.

Shapes: a photo is H x W x 3, uint8, RGB; features are N x 2048, one row a patch.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codecs.base import Pixels
from pipeline.codecs.neural import torchvision_operators
from pipeline.errors import CheckpointError, SettingError

PATCH_SIDE = 256
MIN_PATCHES = 2049
"""With no more patches than features the Gaussian is flat in some directions, and the distance says nothing."""
_NAME = "2048"
_BATCH = 16

Features = NDArray[np.float32]


class Inception:
    """The network that FID looks through."""

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        """Load the weights.

        Args:
            weights: state dict that torch-fidelity publishes.

        Raises:
            CheckpointError: it cannot be read, or holds something else.
        """
        torchvision_operators.declare()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        try:
            # torch-fidelity reads any pickle; this one holds tensors and nothing that runs.
            torch.load(weights, map_location="meta", weights_only=True)
            network = FeatureExtractorInceptionV3("fid", [_NAME], feature_extractor_weights_path=str(weights))
        except Exception as error:
            raise CheckpointError(
                f"{weights} is no state dict of FID's Inception: take the file that pipeline/quality/fid.py names: {error}"
            ) from error
        self._network, self._device = network.to(device), device

    @torch.inference_mode()
    def features(self, photo: Pixels) -> Features:
        """Of its patches, `num_patches` rows; none for a photo that is smaller than a patch."""
        found = [np.empty((0, int(_NAME)), np.float32)]
        patches = _patches(photo)
        for i in range(0, len(patches), _BATCH):
            batch = torch.from_numpy(np.stack(patches[i : i + _BATCH])).to(self._device).permute(0, 3, 1, 2)
            found.append(self._network(batch)[0].cpu().numpy())
        return np.concatenate(found)


class Sets:
    """Features of the patches of photos, as they were and after each codec; 8 KB a patch."""

    def __init__(self, inception: Inception) -> None:
        self._inception = inception
        self._originals: dict[str, Features] = {}
        self._decoded: dict[tuple[Hashable, str], Features] = {}

    def add(self, photo: str, point: Hashable, original: Pixels, decoded: Pixels) -> None:
        """Take a photo and what `point` made of it."""
        if photo not in self._originals:
            self._originals[photo] = self._inception.features(original)
        self._decoded[point, photo] = self._inception.features(decoded)

    def num_patches(self, photos: Sequence[str]) -> int:
        """Of these photos."""
        return sum(len(self._originals[photo]) for photo in photos)

    def distance(self, point: Hashable, photos: Sequence[str]) -> float:
        """FID of these photos through `point`.

        Raises:
            SettingError: they have fewer than `MIN_PATCHES` patches.
        """
        check_enough(self.num_patches(photos), len(photos))
        originals = np.concatenate([self._originals[photo] for photo in photos])
        return frechet_distance(originals, np.concatenate([self._decoded[point, photo] for photo in photos]))


def check_enough(num_patches: int, num_photos: int) -> None:
    """See that a set is large enough.

    Raises:
        SettingError: it is not.
    """
    if num_patches < MIN_PATCHES:
        raise SettingError(
            f"FID needs at least {MIN_PATCHES:,} patches of {PATCH_SIDE} x {PATCH_SIDE} pixels, and these {num_photos} photos "
            f"have {num_patches:,}: name more or larger photos, or leave --fid-weights out"
        )


def frechet_distance(features: Features, others: Features) -> float:
    """Between the Gaussians of two sets, 0 or more; `MIN_PATCHES` rows each at least, or it means little."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(torch.from_numpy(each).double()) for each in (features, others)]
    # Rounding may leave a little less than nothing between equal sets.
    return max(0.0, fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def num_patches(height: int, width: int) -> int:
    """Patches of a photo."""
    return len(_corners(height, width))


def _patches(photo: Pixels) -> list[Pixels]:
    height, width = photo.shape[:2]
    return [photo[top : top + PATCH_SIDE, left : left + PATCH_SIDE] for top, left in _corners(height, width)]


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the grid, then those of the one that is shifted by half a patch and lies within it."""
    rows, columns = height // PATCH_SIDE, width // PATCH_SIDE
    return [
        (PATCH_SIDE * i + shift, PATCH_SIDE * j + shift)
        for shift, fewer in ((0, 0), (PATCH_SIDE // 2, 1))
        for i in range(rows - fewer)
        for j in range(columns - fewer)
    ]

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.errors import CheckpointError
from pipeline.pixels.formats.reader import read_pixels
from pipeline.quality import perceptual
from pipeline.quality.perceptual import PerceptualDistance


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


@pytest.fixture(scope="module")
def photo(photo_files: dict[str, bytes]) -> np.ndarray:
    return read_pixels(photo_files["picos de europa.jpg"])


def jpeg(photo: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_the_network_behind_it_knows_a_mountain(distance: PerceptualDistance, photo: np.ndarray) -> None:
    # The rest of EfficientNet-Lite0, of the parts that the distance is made of: wired or scaled wrongly it would know nothing.
    state = perceptual._state_dict()
    small = np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BICUBIC))
    with torch.inference_mode():
        x = F.relu6(distance.stem((torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() - 127) / 128))
        for block in [*distance.blocks, *(perceptual._Block(state, i) for i in range(11, 16))]:
            x = block.projected(x, block.expanded(x))
        x = F.relu6(perceptual._folded(state, "_conv_head", "_bn1")(x)).mean((2, 3))
        share = (x @ state["_fc.weight"].T + state["_fc.bias"]).softmax(1)[0]
    alp = 970  # ImageNet's class
    assert int(share.argmax()) == alp
    assert share[alp] > 0.6


def test_better_copies_are_nearer(distance: PerceptualDistance, photo: np.ndarray) -> None:
    part = photo[:400, :560]
    assert distance.between(part, part) == 0
    found = [distance.between(part, jpeg(part, quality)) for quality in (5, 25, 60, 95)]
    assert found == sorted(found, reverse=True)
    assert 0.2 < found[0] < 0.6
    assert 0 < found[-1] < 0.03
    assert distance.between(jpeg(part, 5), part) == pytest.approx(found[0], rel=1e-5)


def test_features_have_the_sizes_that_are_told(distance: PerceptualDistance) -> None:
    features = distance.features(torch.rand(2, 3, 33, 50))
    assert [tuple(f.shape) for f in features] == [(2, 96, 17, 25), (2, 144, 9, 13), (2, 240, 5, 7), (2, 672, 3, 4)]
    for feature in features:
        lengths = feature.square().sum(1)
        assert torch.allclose(lengths[lengths > 0], torch.ones(()), atol=1e-3)


def test_large_photos_are_measured_in_windows(
    distance: PerceptualDistance, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, worse = photo[:330, :500], jpeg(photo[:330, :500], 15)
    whole = distance.between(part, worse)
    monkeypatch.setattr(perceptual, "MAX_WINDOW_SIDE", 200)
    assert [len(perceptual._windows(length)) for length in (200, 330, 500)] == [1, 2, 3]
    assert distance.between(part, worse) == pytest.approx(whole, rel=0.06)
    assert distance.between(part, worse) != whole


def test_as_a_loss_it_leads_to_the_photo(distance: PerceptualDistance, photo: np.ndarray) -> None:
    wanted = torch.from_numpy(photo[300:364, 300:364].copy()).permute(2, 0, 1)[None].float() / 255
    found = (wanted + 0.1 * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([found], lr=0.01)
    losses = []
    for _ in range(12):
        loss = distance(wanted, found).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert all(parameter.grad is None for parameter in distance.parameters())


def test_gradients_are_finite_where_photos_are_equal(distance: PerceptualDistance) -> None:
    photo = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance(photo.detach(), photo).sum().backward()
    assert photo.grad is not None
    assert bool(photo.grad.isfinite().all())


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"0\.1\.0"):
        PerceptualDistance()


def test_shapes_must_match(distance: PerceptualDistance, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one shape"):
        distance.between(photo, photo[1:])

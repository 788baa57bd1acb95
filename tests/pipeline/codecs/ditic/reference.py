"""DiT-IC written a second time, from its publication: names and shapes of its tensors, and every step as a plain function.

Of the codec, only its imports of other packages are used, so that a mistake made there is not repeated here. The autoencoder
and the transformer are diffusers', the priors and the coder compressai's, as in the release.

    B photos, H x W pixels after padding to multiples of 256; sizes of the published model

    x     B x 3 x H x W, -1..1        y, y_hat, base, scales  B x 320 x H/64 x W/64
    lat   B x 32 x H/32 x W/32        z, z_hat                B x 160 x H/256 x W/256
    aux   B x 320 x H/16 x W/16       mean, logvar, res, v    B x 32 x H/32 x W/32
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codecs.ditic.external import EntropyBottleneck, GaussianConditional

# After the line above, which makes them importable beside a CPU-only torch.
from compressai.ans import BufferedRansEncoder, RansDecoder  # isort: skip
from diffusers import AutoencoderDC, SanaTransformer2DModel  # isort: skip

State = dict[str, Tensor]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

SCALING_FACTOR = 0.41407
PADDING = 256
# Step k codes group g of the channels at this position of each 2 x 2 cell; 0, 1 in the upper row, 2, 3 in the lower.
POSITIONS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths and depths; by default the published ones."""

    block_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    attention_head: int = 32
    latent: int = 32
    elic_width: int = 192
    elic_out: int = 320
    y: int = 320
    z: int = 160
    from_latent: int = 128
    from_elic: int = 64
    context: int = 640
    logvar_width: int = 192
    pooled_tokens: int = 48
    learned_tokens: int = 29
    caption: int = 2304
    layers: int = 28
    heads: int = 36
    head: int = 32
    cross_heads: int = 16
    cross_head: int = 72


FULL = Sizes()
TINY = Sizes(
    block_channels=(8, 8, 16, 16, 32, 32),
    encoder_layers=(1, 1, 1, 1, 1, 1),
    decoder_layers=(1, 1, 1, 1, 1, 1),
    attention_head=8,
    latent=8,
    elic_width=8,
    elic_out=16,
    y=16,
    z=8,
    from_latent=12,
    from_elic=4,
    context=24,
    logvar_width=12,
    pooled_tokens=5,
    learned_tokens=3,
    caption=20,
    layers=2,
    heads=3,
    head=8,
    cross_heads=2,
    cross_head=12,
)


def autoencoder(sizes: Sizes) -> AutoencoderDC:
    """DC-AE f32, as SANA uses it."""
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    multiscales = ((), (), (), (5,), (5,), (5,))
    return AutoencoderDC(
        in_channels=3,
        latent_channels=sizes.latent,
        attention_head_dim=sizes.attention_head,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=sizes.block_channels,
        decoder_block_out_channels=sizes.block_channels,
        encoder_layers_per_block=sizes.encoder_layers,
        decoder_layers_per_block=sizes.decoder_layers,
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=SCALING_FACTOR,
    )


def transformer(sizes: Sizes) -> SanaTransformer2DModel:
    """SANA."""
    return SanaTransformer2DModel(
        in_channels=sizes.latent,
        out_channels=sizes.latent,
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head,
        num_layers=sizes.layers,
        num_cross_attention_heads=sizes.cross_heads,
        cross_attention_head_dim=sizes.cross_head,
        cross_attention_dim=sizes.cross_heads * sizes.cross_head,
        caption_channels=sizes.caption,
        mlp_ratio=2.5,
        attention_bias=False,
        sample_size=32,
        patch_size=1,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )


# Names and shapes of what is the codec's own


def _conv_shapes(name: str, i: int, o: int, kernel: int) -> Shapes:
    yield f"{name}.weight", (o, i, kernel, kernel)
    yield f"{name}.bias", (o,)


def _linear_shapes(name: str, i: int, o: int) -> Shapes:
    yield f"{name}.weight", (o, i)
    yield f"{name}.bias", (o,)


def _dcb_shapes(name: str, i: int, o: int) -> Shapes:
    if i != o:
        yield from _conv_shapes(f"{name}.adaptor", i, o, 1)
    yield from _conv_shapes(f"{name}.dc.0", o, o, 1)
    yield from _conv_shapes(f"{name}.dc.2", 1, o, 3)  # depthwise
    yield from _conv_shapes(f"{name}.dc.3", o, o, 1)
    yield from _conv_shapes(f"{name}.ffn.0", o, 4 * o, 1)
    yield from _conv_shapes(f"{name}.ffn.2", 2 * o, o, 1)


def _adapter_shapes(name: str, i: int, o: int) -> Shapes:
    middle = (i + o) // 2
    for index, (a, b) in zip((0, 2, 4), ((i, middle), (middle, middle), (middle, o)), strict=True):
        yield from _conv_shapes(f"{name}.branch1.{index}", a, b, 3)


def _head_shapes(name: str, blocks: int, y: int, width: int, out: int) -> Shapes:
    for block in range(blocks):
        yield from _dcb_shapes(f"{name}.{block}", y, y)
    for alias in ("up", "branch1"):
        yield from _conv_shapes(f"{name}.{blocks}.{alias}.0", y, y, 3)
        yield from _conv_shapes(f"{name}.{blocks}.{alias}.2", y, 4 * width, 1)
    yield from _conv_shapes(f"{name}.{blocks + 1}", width, out, 3)


def _latent_codec_shapes(s: Sizes) -> Shapes:
    g_a, width = "codec.g_a.analysis_transform", s.from_latent + s.from_elic
    yield from _conv_shapes("codec.g_a.pre1.0", s.latent, s.from_latent, 3)
    for alias in ("down", "branch1"):
        yield from _conv_shapes(f"codec.g_a.pre2.0.{alias}", s.elic_out, s.from_elic, 3)
        yield from _conv_shapes(f"{g_a}.2.{alias}", width, s.y, 3)
    for index, channels in ((0, width), (1, width), (3, s.y), (4, s.y)):
        yield from _dcb_shapes(f"{g_a}.{index}", channels, channels)
    yield from _dcb_shapes("codec.h_a.reduction.0", s.y, s.y)
    yield from _dcb_shapes("codec.h_a.reduction.1", s.y, s.z)
    for index in (2, 3):
        yield from _conv_shapes(f"codec.h_a.reduction.{index}.down", s.z, s.z, 2)
        yield from _dcb_shapes(f"codec.h_a.reduction.{index}.conv", s.z, s.z)
    for index in (0, 1):
        yield from _conv_shapes(f"codec.h_s.increase.{index}.up.conv.0", s.z, 4 * s.z, 1)
        yield from _dcb_shapes(f"codec.h_s.increase.{index}.conv", s.z, s.z)
    yield from _dcb_shapes("codec.h_s.increase.2", s.z, s.y)
    yield from _dcb_shapes("codec.h_s.increase.3", s.y, s.y)
    for k in range(4):
        yield from _adapter_shapes(f"codec.adapter_in.{k}", s.y, s.context)
        yield from _adapter_shapes(f"codec.adapter_out.{k}", s.context, 2 * s.y)
        yield from _adapter_shapes(f"codec.LRP.{k}.block.0", 2 * s.y, s.y)
        if k < 3:
            yield from _dcb_shapes(f"codec.g_c.block.{k}", s.context, s.context)
    yield from _conv_shapes("codec.g_c.block.3", s.context, s.context, 1)
    yield from _head_shapes("codec.g_s.synthesis_transform", 3, s.y, s.y, s.latent)
    yield from _head_shapes("codec.scale.synthesis_transform", 3, s.y, s.logvar_width, s.latent)
    yield from _head_shapes("codec.prompt.synthesis_transform", 3, s.y, s.y, s.y)
    yield from _head_shapes("codec.aux.block", 2, s.y, s.y, s.latent)


def _condition_shapes(s: Sizes) -> Shapes:
    yield "prompter.pattern", (1, s.learned_tokens, s.y)
    for index, channels in ((0, s.y), (2, s.caption), (4, s.caption)):
        yield from _linear_shapes(f"prompter.align.{index}", channels, s.caption)


def _elic_shapes(s: Sizes) -> Shapes:
    n, name = s.elic_width, "aux_codec.analysis_transform"

    def bottleneck(at: str, channels: int) -> Shapes:
        half = channels // 2
        for index, (i, o, kernel) in zip((0, 2, 4), ((channels, half, 1), (half, half, 3), (half, channels, 1)), strict=True):
            yield from _conv_shapes(f"{at}.{index}", i, o, kernel)

    def attention(at: str, channels: int) -> Shapes:
        for branch in ("conv_a", "conv_b"):
            for unit in range(3):
                yield from bottleneck(f"{at}.{branch}.{unit}.conv", channels)
        yield from _conv_shapes(f"{at}.conv_b.3", channels, channels, 1)

    for index, (i, o) in ((0, (3, n)), (4, (n, n)), (9, (n, n)), (13, (n, s.elic_out))):
        yield from _conv_shapes(f"{name}.{index}", i, o, 5)
    for index in (1, 2, 3, 5, 6, 7, 10, 11, 12):
        yield from bottleneck(f"{name}.{index}.branch", n)
    yield from attention(f"{name}.8", n)
    yield from attention(f"{name}.14", s.elic_out)


def codec_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of everything but the autoencoder, the transformer and the priors, whose packages name their own."""
    return {name: shape for part in (_latent_codec_shapes, _condition_shapes, _elic_shapes) for name, shape in part(sizes)}


def scale_table() -> list[float]:
    """In float32, by torch."""
    return torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)).tolist()


def priors(sizes: Sizes, *, tables: bool = True) -> tuple[EntropyBottleneck, GaussianConditional]:
    """Of z and of y; without `tables`, as they are before they are first updated."""
    of_z, of_y = EntropyBottleneck(sizes.z), GaussianConditional(None)
    with torch.no_grad():
        # Learned, the intervals are narrow and their middles lie anywhere.
        of_z.quantiles[:, 0, 1] += torch.empty(sizes.z).uniform_(-0.4, 0.4)
    if tables:
        of_z.update(force=True)
        of_y.update_scale_table(scale_table(), force=True)
    return of_z, of_y


def random_checkpoint(sizes: Sizes, seed: int, *, tables: bool = True) -> State:
    """A merged checkpoint with random weights, in which every step matters: no activation dies out or explodes."""
    torch.manual_seed(seed)
    state: State = {"timesteps": torch.tensor([999])}
    state |= {f"vae.{name}": value for name, value in autoencoder(sizes).state_dict().items()}
    state |= {f"DiT.{name}": value for name, value in transformer(sizes).state_dict().items()}
    for name, shape in codec_shapes(sizes).items():
        twin = name.replace(".branch1.", ".up." if name.replace(".branch1.", ".up.") in state else ".down.")
        if twin != name and twin in state:
            state[name] = state[twin]
        elif name.endswith(".bias"):
            state[name] = 0.1 * torch.randn(shape)
        else:
            # Half as much into a residual sum, or activations would double in every block.
            spread = 0.5 if ".dc.3." in name or ".ffn.2." in name else 1.0
            state[name] = spread * torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    with torch.no_grad():
        for k in range(4):
            # Scales from below zero to beyond the table's first entries.
            state[f"codec.adapter_out.{k}.branch1.4.weight"][sizes.y :] *= 0.1
            state[f"codec.adapter_out.{k}.branch1.4.bias"][sizes.y :] += torch.linspace(-0.5, 3.0, sizes.y)
        # Standard deviations about 1, where the gain of the flow changes most.
        state["codec.scale.synthesis_transform.4.weight"] *= 0.5
    for name, prior in zip(("entropy_bottleneck", "gaussian_conditional"), priors(sizes, tables=tables), strict=True):
        state |= {f"codec.{name}.{key}": value for key, value in prior.state_dict().items()}
    return {name: value.detach().clone() for name, value in state.items()}


@dataclass(kw_only=True)
class Stages:
    """Every intermediate result of one photo."""

    lat: Tensor
    aux: Tensor
    y: Tensor
    z: Tensor
    z_hat: Tensor
    base: Tensor
    means: list[Tensor] = field(default_factory=list)
    """Of the four steps, 1 x C/4 x h x w."""
    scales: list[Tensor] = field(default_factory=list)
    symbols: list[Tensor] = field(default_factory=list)
    y_hat: Tensor
    all_scales: Tensor
    body: bytes


class Reference:
    """The release with one checkpoint, one photo at a time, in float32."""

    def __init__(self, sizes: Sizes, state: State) -> None:
        self.sizes, self.state = sizes, state
        self.vae, self.dit = autoencoder(sizes), transformer(sizes)
        self.of_z, self.of_y = EntropyBottleneck(sizes.z), GaussianConditional(None)
        for prefix, module in (
            ("vae.", self.vae), ("DiT.", self.dit),
            ("codec.entropy_bottleneck.", self.of_z), ("codec.gaussian_conditional.", self.of_y),
        ):  # fmt: skip
            part = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            for name, buffer in module.named_buffers():
                if buffer.shape != part[name].shape:  # tables have no size before they are made
                    owner, _, last = name.rpartition(".")
                    setattr(module.get_submodule(owner), last, torch.empty_like(part[name]))
            module.load_state_dict(part)
            module.eval().requires_grad_(False)

    # Layers

    def conv(self, name: str, x: Tensor, *, stride: int = 1, padding: int | None = None, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        same = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride=stride, padding=same, groups=groups)

    def dcb(self, name: str, x: Tensor, *, outer: bool = False) -> Tensor:
        if f"{name}.adaptor.weight" in self.state:
            x = self.conv(f"{name}.adaptor", x)
        t = wsilu(self.conv(f"{name}.dc.0", x))
        t = self.conv(f"{name}.dc.2", t, groups=t.shape[1])
        t = x + self.conv(f"{name}.dc.3", t)
        first, second = wsilu(self.conv(f"{name}.ffn.0", t)).chunk(2, dim=1)
        t = t + self.conv(f"{name}.ffn.2", first + second)
        return t + x if outer else t

    def adapter(self, name: str, x: Tensor) -> Tensor:
        x = F.gelu(self.conv(f"{name}.branch1.0", x))
        x = F.gelu(self.conv(f"{name}.branch1.2", x))
        return self.conv(f"{name}.branch1.4", x)

    def head(self, name: str, blocks: int, x: Tensor) -> Tensor:
        for block in range(blocks):
            x = self.dcb(f"{name}.{block}", x)
        x = F.gelu(self.conv(f"{name}.{blocks}.up.0", x))
        x = F.pixel_shuffle(self.conv(f"{name}.{blocks}.up.2", x), 2)
        return self.conv(f"{name}.{blocks + 1}", x)

    # Steps of the encoder

    def lat(self, x: Tensor) -> Tensor:
        return self.vae.encode(x).latent * SCALING_FACTOR

    def aux(self, x: Tensor) -> Tensor:
        name, x = "aux_codec.analysis_transform", (x + 1) / 2

        def bottleneck(at: str, x: Tensor) -> Tensor:
            return self.conv(f"{at}.4", F.relu(self.conv(f"{at}.2", F.relu(self.conv(f"{at}.0", x)))))

        def attention(at: str, x: Tensor) -> Tensor:
            branches = []
            for branch in ("conv_a", "conv_b"):
                t = x
                for unit in range(3):
                    t = F.relu(t + bottleneck(f"{at}.{branch}.{unit}.conv", t))
                branches.append(t)
            return x + branches[0] * torch.sigmoid(self.conv(f"{at}.conv_b.3", branches[1]))

        for index in range(15):
            at = f"{name}.{index}"
            if index in (8, 14):
                x = attention(at, x)
            elif index in (0, 4, 9, 13):
                x = self.conv(at, x, stride=2)
            else:
                x = x + bottleneck(f"{at}.branch", x)
        return x

    def y(self, lat: Tensor, aux: Tensor) -> Tensor:
        name = "codec.g_a.analysis_transform"
        x = torch.cat((self.conv("codec.g_a.pre1.0", lat), self.conv("codec.g_a.pre2.0.down", aux, stride=2)), dim=1)
        x = self.dcb(f"{name}.1", self.dcb(f"{name}.0", x))
        x = self.conv(f"{name}.2.down", x, stride=2)
        return self.dcb(f"{name}.4", self.dcb(f"{name}.3", x))

    def z(self, y: Tensor) -> Tensor:
        name = "codec.h_a.reduction"
        x = self.dcb(f"{name}.1", self.dcb(f"{name}.0", y))
        for index in (2, 3):
            x = self.conv(f"{name}.{index}.down", x, stride=2, padding=0)
            x = self.dcb(f"{name}.{index}.conv", x, outer=True)
        return x

    # Steps of both

    def base(self, z_hat: Tensor) -> Tensor:
        name, x = "codec.h_s.increase", z_hat
        for index in (0, 1):
            x = F.pixel_shuffle(self.conv(f"{name}.{index}.up.conv.0", x), 2)
            x = self.dcb(f"{name}.{index}.conv", x, outer=True)
        return self.dcb(f"{name}.3", self.dcb(f"{name}.2", x))

    def parameters(self, k: int, base: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of step k, 1 x C x h x w each."""
        x = self.adapter(f"codec.adapter_in.{k}", base)
        for block in range(3):
            x = self.dcb(f"codec.g_c.block.{block}", x)
        means, scales = self.adapter(f"codec.adapter_out.{k}", self.conv("codec.g_c.block.3", x)).chunk(2, dim=1)
        return means, scales

    def corrected(self, k: int, y_k: Tensor, base: Tensor) -> Tensor:
        """y_k with the predicted rest of its rounding."""
        lrp = self.adapter(f"codec.LRP.{k}.block.0", torch.cat((y_k, base), dim=1))
        return y_k + 0.5 * torch.tanh(lrp * mask(y_k, k))

    # Steps of the decoder

    def mean(self, y_hat: Tensor) -> Tensor:
        return self.head("codec.g_s.synthesis_transform", 3, y_hat)

    def logvar(self, scales: Tensor) -> Tensor:
        """Of the scales as the entropy model has them, with no lower bound."""
        return self.head("codec.scale.synthesis_transform", 3, scales)

    def res(self, y_hat: Tensor) -> Tensor:
        return self.head("codec.aux.block", 2, y_hat)

    def condition(self, y_hat: Tensor) -> Tensor:
        prompt = self.head("codec.prompt.synthesis_transform", 3, y_hat)
        pooled = F.adaptive_avg_pool1d(prompt.flatten(2), self.sizes.pooled_tokens).transpose(1, 2)
        x = torch.cat((pooled, self.state["prompter.pattern"].expand(len(y_hat), -1, -1)), dim=1)
        for index in (0, 2, 4):
            x = F.linear(x, self.state[f"prompter.align.{index}.weight"], self.state[f"prompter.align.{index}.bias"])
            x = F.silu(x) if index < 4 else x
        return x

    def v(self, mean: Tensor, condition: Tensor) -> Tensor:
        return self.dit(mean, encoder_hidden_states=condition, timestep=torch.tensor([999])).sample

    def x0(self, y_hat: Tensor, scales: Tensor) -> Tensor:
        mean = self.mean(y_hat)
        s = torch.exp(0.5 * self.logvar(scales).clamp(-30, 20))
        gain = torch.clamp(0.4 + 0.15 * s, max=1.0)
        sigma0 = 3 * 0.999 / (1 + 2 * 0.999)
        return mean - sigma0 * gain * self.v(mean, self.condition(y_hat)) + self.res(y_hat)

    def x_hat(self, x0: Tensor) -> Tensor:
        return self.vae.decode(x0 / SCALING_FACTOR).sample.clamp(-1, 1)

    # The whole

    @torch.inference_mode()
    def encode(self, photo: NDArray[np.uint8]) -> Stages:
        """A photo, H x W x 3; must be larger than its padding."""
        x = padded(photo)
        lat, aux = self.lat(x), self.aux(x)
        y = self.y(lat, aux)
        z = self.z(y)
        (z_string,) = self.of_z.compress(z)
        z_hat = self.of_z.decompress([z_string], z.shape[2:])
        base = self.base(z_hat)
        stages = Stages(
            lat=lat, aux=aux, y=y, z=z, z_hat=z_hat, base=base,
            y_hat=torch.zeros_like(y), all_scales=torch.zeros_like(y), body=b"",
        )  # fmt: skip
        symbols: list[int] = []
        indexes: list[int] = []
        for k in range(4):
            means, scales = self.parameters(k, base)
            mean, scale = take(means, k), take(scales, k)
            step = self.of_y.quantize(take(y, k), "symbols", mean)
            symbols += step.flatten().tolist()
            indexes += self.of_y.build_indexes(scale).flatten().tolist()
            stages.means.append(mean)
            stages.scales.append(scale)
            stages.symbols.append(step)
            stages.all_scales += put(scale, k)
            y_k = self.corrected(k, put(step + mean, k), base)
            base = base * (1 - mask(base, k)) + y_k
            stages.y_hat += y_k
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(symbols, indexes, *self._tables())
        y_string = encoder.flush()
        stages.body = struct.pack(">3I", z.shape[2], z.shape[3], 2)
        for string in (y_string, z_string):
            stages.body += struct.pack(">I", len(string)) + string
        return stages

    @torch.inference_mode()
    def decode(self, body: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """The pixels that the release writes into its PNG."""
        z_height, z_width, num_strings, y_length = struct.unpack_from(">4I", body)
        assert num_strings == 2
        y_string, z_string = body[16 : 16 + y_length], body[20 + y_length :]
        base = self.base(self.of_z.decompress([z_string], (z_height, z_width)))
        y_hat, all_scales = torch.zeros_like(base), torch.zeros_like(base)
        decoder = RansDecoder()
        decoder.set_stream(y_string)
        for k in range(4):
            means, scales = self.parameters(k, base)
            mean, scale = take(means, k), take(scales, k)
            symbols = decoder.decode_stream(self.of_y.build_indexes(scale).flatten().tolist(), *self._tables())
            y_k = self.corrected(k, put(torch.tensor(symbols, dtype=torch.float32).view(mean.shape) + mean, k), base)
            all_scales += put(scale, k)
            base = base * (1 - mask(base, k)) + y_k
            y_hat += y_k
        x_hat = self.x_hat(self.x0(y_hat, all_scales))[0, :, :height, :width]
        return ((x_hat + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 0).numpy()

    def _tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        of_y = self.of_y
        return of_y.quantized_cdf.tolist(), of_y.cdf_length.tolist(), of_y.offset.tolist()


def wsilu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(4 * x)


def mask(like: Tensor, k: int) -> Tensor:
    """1 where step k codes, of the channels and positions of `like`."""
    ones = torch.zeros_like(like)
    group = like.shape[1] // 4
    for g, position in enumerate(POSITIONS[k]):
        ones[:, g * group : (g + 1) * group, position // 2 :: 2, position % 2 :: 2] = 1
    return ones


def take(x: Tensor, k: int) -> Tensor:
    """1 x C x h x w -> 1 x C/4 x h x w: of each position, the one group that step k codes there."""
    return sum((x * mask(x, k)).chunk(4, dim=1))  # type: ignore[return-value]


def put(packed: Tensor, k: int) -> Tensor:
    """Inverse of `take`, zero elsewhere."""
    wide = packed.repeat(1, 4, 1, 1)
    return wide * mask(wide, k)


def padded(photo: NDArray[np.uint8]) -> Tensor:
    """H x W x 3 -> 1 x 3 x H' x W', -1..1, mirrored at the right and at the bottom."""
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].contiguous().float() / 255 * 2 - 1
    height, width = photo.shape[:2]
    return F.pad(x, (0, -width % PADDING, 0, -height % PADDING), mode="reflect")

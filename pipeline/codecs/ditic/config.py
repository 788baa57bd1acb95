"""Sizes of a DiT-IC. `full()` is the published model; `small()` the one trained and shipped here.

Each part has its own dataclass, so that a test or an experiment can change one number with `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import CheckpointError, SettingError

AUX_FACTOR = 16
"""The auxiliary encoder works at 1/16 of the photo's width and height (four stride-2 convolutions)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """DC-AE, as diffusers' `AutoencoderDC` in SANA."""

    block_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    """Channels at 1/1, 1/2, 1/4, ... of what goes in; one entry more halves the latent once more."""
    patch_size: int = 1
    """Squares of so many pixels a side go in, and come out, as the channels of one position."""
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    num_convolutional_stages: int = 3
    """Stages made of ResBlocks; the deeper ones are EfficientViT blocks."""
    latent_channels: int = 32
    attention_head_dim: int = 32
    narrow: bool = False
    """For few channels, trained from nothing: upsampling by PixelShuffle, residual branches that start at next to nothing, no
    shortcuts around the convolutions beside the latent, and no RMS norm before the last convolution, which would discard the
    amplitude (18.5 dB instead of 22.5 after 240 steps)."""
    scaling_factor: float = 0.41407
    """The latent is multiplied by it, for unit variance."""

    def __post_init__(self) -> None:
        if not len(self.block_channels) == len(self.encoder_layers) == len(self.decoder_layers):
            raise ValueError("block_channels, encoder_layers and decoder_layers need one entry a stage")

    @property
    def factor(self) -> int:
        """Photo height over latent height."""
        return self.patch_size * 2 ** (len(self.block_channels) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuxEncoderConfig:
    """ELIC's analysis transform (He et al., CVPR 2022, figure 3)."""

    width: int = 192
    out_channels: int = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCodecConfig:
    """Analysis and synthesis around the quantised latent y, its hyperprior z, and the four-step context model."""

    y_channels: int = 320
    z_channels: int = 160
    lat_channels: int = 128
    """Width of the branch that reads the autoencoder's latent."""
    aux_channels: int = 64
    """Width of the branch that reads the auxiliary encoder."""
    context_channels: int = 640
    """Width of the shared context network; means and scales always have y_channels each."""
    scale_channels: int = 192
    """Width of the last convolution's input in the log-variance head."""
    num_context_blocks: int = 3
    num_head_blocks: int = 3
    """Depth of the mean, log-variance and prompt heads."""
    num_aux_blocks: int = 2
    """Depth of the residual head."""
    adapter_kernel: int = 3
    """Kernel of the context model's adapters; 1 leaves spatial context to the depthwise convolutions."""
    adapter_channels: int | None = None
    """Width inside the adapters; None: the mean of what goes in and comes out."""
    head_kernel: int = 3
    """Kernel of the heads' first convolution; their last is always 3."""
    head_channels: int | None = None
    """Width of the mean and residual heads before their last convolution; None: y_channels."""
    prompt_channels: int | None = None
    """Channels of the prompt; None: y_channels."""
    num_qualities: int = 1
    """Rates that one set of weights codes at: y is multiplied by gains of its own for each (Cui et al., CVPR 2021)."""
    bottleneck_cdf_length: int = 23
    """Entries of the widest CDF of z, in a released checkpoint."""
    bounds_scales: bool = False
    """Feed the log-variance head with scales of at least 0.11, as the shipped model was trained. The release feeds it with the
    entropy model's raw scales, which may be smaller and even negative."""

    def __post_init__(self) -> None:
        if self.y_channels % 4:
            raise ValueError("y_channels must be a multiple of 4: the context model codes it in four groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionConfig:
    """The tokens that steer the transformer."""

    num_latent_tokens: int = 48
    num_learned_tokens: int = 29
    channels: int = 2304


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """SANA, as diffusers' `SanaTransformer2DModel`."""

    num_layers: int = 28
    num_heads: int = 36
    head_dim: int = 32
    num_cross_heads: int = 16
    cross_head_dim: int = 72
    mlp_ratio: float = 2.5
    patch_size: int = 1
    """Squares of so many positions of the latent are one token."""
    pseudo_timestep: bool = False
    """Variance-guided flow as in the paper, a timestep for each position, and not as in the release, a gain."""

    def __post_init__(self) -> None:
        if self.num_heads * self.head_dim != self.num_cross_heads * self.cross_head_dim:
            raise ValueError("num_heads * head_dim must equal num_cross_heads * cross_head_dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTICConfig:
    """A whole DiT-IC."""

    name: str
    """Name in the codec registry."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    aux_encoder: AuxEncoderConfig | None = field(default_factory=AuxEncoderConfig)
    """What the frozen autoencoder misses; None where the autoencoder is trained with the codec and need miss nothing."""
    latent: LatentCodecConfig = field(default_factory=LatentCodecConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        if self.aux_encoder is not None and self.autoencoder.factor % AUX_FACTOR:
            raise ValueError("the autoencoder must shrink by 16, 32, ... to meet the auxiliary encoder")

    @property
    def aux_stride(self) -> int:
        """Stride that brings the auxiliary features to the latent's resolution."""
        return self.autoencoder.factor // AUX_FACTOR

    @property
    def y_factor(self) -> int:
        """Photo height over the height of y."""
        return self.autoencoder.factor * 2

    @property
    def multiple(self) -> int:
        """Photos are padded to it: z is four times smaller than y. 256 at full size."""
        return self.y_factor * 4

    @classmethod
    def full(cls) -> DiTICConfig:
        """The published model: 1.05 B parameters."""
        return cls(name="ditic")

    @classmethod
    def small(cls) -> DiTICConfig:
        """The shipped model: any CPU, four rates. Its latent lies at 1/8 of the photo and y at 1/16, not at 1/32 and 1/64."""
        return cls(
            name="ditic-small",
            autoencoder=AutoencoderConfig(
                patch_size=4,
                block_channels=(48, 96),
                encoder_layers=(0, 1),
                decoder_layers=(1, 3),
                num_convolutional_stages=2,
                latent_channels=40,
                narrow=True,
                scaling_factor=1.0,
            ),
            aux_encoder=None,
            latent=LatentCodecConfig(
                y_channels=160,
                z_channels=64,
                lat_channels=64,
                context_channels=96,
                scale_channels=64,
                num_context_blocks=1,
                num_head_blocks=1,
                num_aux_blocks=1,
                adapter_kernel=1,
                adapter_channels=96,
                head_kernel=1,
                head_channels=64,
                prompt_channels=64,
                num_qualities=4,
                bottleneck_cdf_length=0,
                bounds_scales=True,
            ),
            condition=ConditionConfig(num_latent_tokens=12, num_learned_tokens=4, channels=128),
            transformer=TransformerConfig(num_layers=3, num_heads=4, num_cross_heads=4, cross_head_dim=32, patch_size=2),
        )

    @classmethod
    def tiny(cls) -> DiTICConfig:
        """Every part in its smallest shape, untrained: for tests."""
        return cls(
            name="ditic-tiny",
            autoencoder=AutoencoderConfig(
                block_channels=(8, 8, 16, 32, 32),
                encoder_layers=(0, 1, 1, 1, 1),
                decoder_layers=(0, 1, 1, 1, 1),
                num_convolutional_stages=4,
                narrow=True,
                latent_channels=16,
                scaling_factor=1.0,
            ),
            aux_encoder=AuxEncoderConfig(width=8, out_channels=16),
            latent=LatentCodecConfig(
                y_channels=16,
                z_channels=8,
                lat_channels=8,
                aux_channels=8,
                context_channels=32,
                scale_channels=8,
                num_context_blocks=1,
                num_head_blocks=1,
                num_aux_blocks=1,
                adapter_kernel=1,
                bottleneck_cdf_length=0,
            ),
            condition=ConditionConfig(num_latent_tokens=4, num_learned_tokens=2, channels=32),
            transformer=TransformerConfig(num_layers=1, num_heads=1, num_cross_heads=1, cross_head_dim=32),
        )

    def check_quality(self, quality: int | None) -> int:
        """`quality`, or the highest where it is None.

        Raises:
            SettingError: the model has no such quality.
        """
        highest = self.latent.num_qualities
        if quality is not None and not 1 <= quality <= highest:
            choice = f"one of 1 to {highest}, 1 the smallest files" if highest > 1 else "none: it codes at one rate"
            raise SettingError(f"--quality {quality}: choose for {self.name} {choice}")
        return highest if quality is None else quality

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, for the checkpoint's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DiTICConfig:
        """Inverse of `to_dict`, also after a trip through JSON.

        Checkpoints older than `bounds_scales` lack it. Their models were trained with the bound.

        Raises:
            CheckpointError: a field is missing, unknown or out of range.
        """
        parts: dict[str, Any] = {
            "autoencoder": AutoencoderConfig,
            "aux_encoder": AuxEncoderConfig,
            "latent": LatentCodecConfig,
            "condition": ConditionConfig,
            "transformer": TransformerConfig,
        }

        def made(kind: Any, fields: dict[str, Any] | None) -> Any:
            return fields and kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})

        try:
            values = {**values, "latent": {"bounds_scales": True} | values["latent"]}
            return cls(name=values["name"], **{name: made(kind, values[name]) for name, kind in parts.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's model configuration is not one of DiT-IC: {error}") from error

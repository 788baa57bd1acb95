"""The codec against a second one, written from the publication alone: every stage, whole streams, and every constant."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.codecs.ditic import checkpoint, flow, latent_codec
from pipeline.codecs.ditic.config import (
    AutoencoderConfig,
    AuxEncoderConfig,
    ConditionConfig,
    DiTICConfig,
    LatentCodecConfig,
    TransformerConfig,
)
from pipeline.codecs.ditic.header import SHIPPED, config_of
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.packing import Packing
from pipeline.codecs.ditic.release import FloatEntropyModel, ReleaseCodec
from pipeline.codecs.ditic.state_dict_adapter import from_merged
from tests.pipeline.codecs.ditic import reference
from tests.pipeline.codecs.ditic.reference import Reference, Stages
from tests.pipeline.codecs.ditic.released import CONFIG

TENSORS = Path(__file__).parents[3] / "golden" / "ditic_full_tensors.tsv"
HEIGHT, WIDTH = 300, 310


@pytest.fixture(scope="module")
def photo(photo_files: dict[str, bytes]) -> NDArray[np.uint8]:
    from pipeline.pixels.formats.reader import read_pixels

    return read_pixels(photo_files["wine.jpg"])[:HEIGHT, :WIDTH].copy()


@pytest.fixture(scope="module")
def state() -> reference.State:
    return reference.random_checkpoint(reference.TINY, seed=5)


@pytest.fixture(scope="module")
def theirs(state: reference.State) -> Reference:
    return Reference(reference.TINY, state)


@pytest.fixture(scope="module")
def stages(theirs: Reference, photo: NDArray[np.uint8]) -> Stages:
    return theirs.encode(photo)


@pytest.fixture(scope="module")
def ours(state: reference.State) -> DiTIC:
    return from_merged(state, CONFIG).model


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of float32."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


def test_the_reference_has_the_published_tensors() -> None:
    with torch.device("meta"):
        found = {name: tuple(tensor.shape) for name, tensor in _packages(reference.FULL).items()}
    found |= reference.codec_shapes(reference.FULL)
    with TENSORS.open() as handle:
        published = {row["tensor"]: row["shape"] for row in csv.DictReader(handle, delimiter="\t")}
    # compressai names those of its priors itself.
    own = {n: s for n, s in published.items() if "entropy_bottleneck" not in n and "gaussian_conditional" not in n}
    assert {name: str(shape) for name, shape in found.items()} | {"timesteps": "(1,)"} == own


def _packages(sizes: reference.Sizes) -> dict[str, Tensor]:
    parts = {"vae.": reference.autoencoder(sizes), "DiT.": reference.transformer(sizes)}
    return {prefix + name: value for prefix, module in parts.items() for name, value in module.state_dict().items()}


@torch.inference_mode()
def test_the_encoder_stage_by_stage(ours: DiTIC, theirs: Reference, stages: Stages, photo: NDArray[np.uint8]) -> None:
    x = reference.padded(photo)
    assert x.shape == (1, 3, 512, 512)
    lat, aux = ours.analyse(x)
    assert aux is not None
    assert_same(lat, stages.lat)
    assert_same(aux, stages.aux)
    y, z = ours.codec.analyse(stages.lat, stages.aux, torch.ones(1, 1, 1, 1))
    assert_same(y, stages.y)
    assert_same(z, stages.z)
    assert_same(ours.codec.hyper_synthesis(stages.z_hat), stages.base)


@torch.inference_mode()
def test_the_context_model_step_by_step(ours: DiTIC, stages: Stages) -> None:
    packing = Packing(stages.y)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
        symbols = torch.round(packing.pack(stages.y, k) - mean)
        seen.append((mean, scale, symbols))
        return symbols

    y_hat = ours.codec.context_steps(stages.base, code, torch.zeros(1, 1, 1, 1))
    for k, (mean, scale, symbols) in enumerate(seen):
        assert_same(mean, stages.means[k])
        assert_same(scale, stages.scales[k])
        assert torch.equal(symbols.int(), stages.symbols[k])
    assert_same(y_hat, stages.y_hat)
    assert_same(packing.unpack([scale for _, scale, _ in seen]), stages.all_scales)


@torch.inference_mode()
def test_the_decoder_stage_by_stage(ours: DiTIC, theirs: Reference, stages: Stages) -> None:
    y_hat, scales = stages.y_hat, stages.all_scales
    # Otherwise a bound on the scales would go unnoticed.
    assert float((scales < 0).float().mean()) > 0.1 and float(((scales > 0) & (scales < 0.11)).float().sum()) > 2
    assert float((theirs.logvar(scales) - theirs.logvar(scales.clamp(min=0.11))).std()) > 0.1
    heads, condition = ours.steer(y_hat, scales, torch.ones(1, 1, 1, 1))
    mean = theirs.mean(y_hat)
    assert_same(heads.mean, mean)
    assert_same(heads.logvar, theirs.logvar(scales))
    assert_same(heads.residual, theirs.res(y_hat))
    assert_same(condition, theirs.condition(y_hat))
    assert condition.shape[1] == 5 + 3
    assert_same(ours.DiT(mean, condition, ours.timesteps), theirs.v(mean, condition))
    x0 = theirs.x0(y_hat, scales)
    assert_same(ours.denoise(heads, condition), x0)
    assert_same(ours.render(x0).clamp(-1, 1), theirs.x_hat(x0))


def test_streams_are_the_same_bytes_and_decode_to_the_same_pixels_in_both_directions(
    ours: DiTIC, theirs: Reference, stages: Stages, photo: NDArray[np.uint8]
) -> None:
    codec = ReleaseCodec(ours, "0" * 16)
    assert codec.encode_body(photo) == stages.body
    expected = theirs.decode(stages.body, HEIGHT, WIDTH)
    pixels = codec.decode_body(stages.body, width=WIDTH, height=HEIGHT)
    # A value that lies on the border of two bytes may fall to either side.
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert np.array_equal(codec.decode(codec.encode([photo]))[0], pixels)


def test_scales_below_the_first_entry_of_the_table_use_it(ours: DiTIC, theirs: Reference) -> None:
    table = theirs.of_y.scale_table
    scales = torch.cat((torch.linspace(-1, 0.2, 200), table, table.nextafter(table * 2), table * 1.5))[None, :, None, None]
    found = FloatEntropyModel(ours.codec)._rows(scales)
    assert found.tolist() == theirs.of_y.build_indexes(scales).flatten().tolist()
    assert found.min() == 0 and found.max() == 63


def test_the_constants_of_the_release() -> None:
    full = DiTICConfig.full()
    assert full == DiTICConfig(
        name="ditic",
        autoencoder=AutoencoderConfig(
            block_channels=(128, 256, 512, 512, 1024, 1024), encoder_layers=(2, 2, 2, 3, 3, 3), decoder_layers=(3,) * 6,
            num_convolutional_stages=3, latent_channels=32, attention_head_dim=32, scaling_factor=0.41407,
            patch_size=1, narrow=False,
        ),
        aux_encoder=AuxEncoderConfig(width=192, out_channels=320),
        latent=LatentCodecConfig(
            y_channels=320, z_channels=160, lat_channels=128, aux_channels=64, context_channels=640, scale_channels=192,
            num_context_blocks=3, num_head_blocks=3, num_aux_blocks=2, adapter_kernel=3, head_kernel=3, num_qualities=1,
            bottleneck_cdf_length=23, bounds_scales=False,
        ),
        condition=ConditionConfig(num_latent_tokens=48, num_learned_tokens=29, channels=2304),
        transformer=TransformerConfig(
            num_layers=28, num_heads=36, head_dim=32, num_cross_heads=16, cross_head_dim=72, mlp_ratio=2.5, patch_size=1,
            pseudo_timestep=False,
        ),
    )  # fmt: skip
    assert (full.autoencoder.factor, full.y_factor, full.multiple) == (32, 64, 256)
    assert full.condition.num_latent_tokens + full.condition.num_learned_tokens == 77
    assert (flow.TIMESTEP, flow.SHIFT) == (999, 3.0)
    assert pytest.approx(2.997 / 2.998, abs=1e-12) == flow.SIGMA0
    assert torch.equal(torch.tensor(latent_codec.SCALE_TABLE), torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)))
    assert latent_codec.SCALE_TABLE[0] == float(np.float32(0.11))
    assert latent_codec.SCALE_TABLE[-1] == pytest.approx(256, rel=1e-6)


@pytest.mark.parametrize(
    ("logvar", "gain"),
    [
        (-1000.0, 0.4 + 0.15 * math.exp(-15)),
        (-30.0, 0.4 + 0.15 * math.exp(-15)),
        (0.0, 0.55),
        (2 * math.log(3.9), 0.985),
        (2 * math.log(4.0), 1.0),
        (20.0, 1.0),
        (1000.0, 1.0),
    ],
)
def test_the_gain_of_the_flow(logvar: float, gain: float) -> None:
    class Ones(torch.nn.Module):
        def forward(self, mean: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
            assert timestep.tolist() == [999]
            return torch.ones_like(mean)

    value = torch.full((1, 1, 1, 1), 2.0)
    x0 = flow.one_step(Ones(), value, torch.full_like(value, logvar), 0.25 * value, value, torch.tensor([999]))
    assert float(x0) == pytest.approx(2.5 - gain * 2.997 / 2.998, abs=1e-6)


def test_a_bound_on_the_scales_is_kept_where_a_model_was_trained_with_it(
    ours: DiTIC, theirs: Reference, stages: Stages
) -> None:
    bounded = from_merged(theirs.state, replace(CONFIG, latent=replace(CONFIG.latent, bounds_scales=True))).model
    with torch.inference_mode():
        heads, _ = bounded.steer(stages.y_hat, stages.all_scales, torch.ones(1, 1, 1, 1))
        assert_same(heads.logvar, theirs.logvar(stages.all_scales.clamp(min=0.11)))


def test_checkpoints_without_that_field_keep_what_their_models_were_trained_with(tiny_weights: Path, tmp_path: Path) -> None:
    assert "bounds_scales" not in _stored_config(SHIPPED)["latent"]
    assert config_of(SHIPPED).latent.bounds_scales
    assert checkpoint.load(SHIPPED).model.config.latent.bounds_scales
    assert DiTICConfig.small().latent.bounds_scales
    old = tmp_path / "old.safetensors"
    _write_without_the_field(tiny_weights, old)
    assert not checkpoint.load(tiny_weights).model.config.latent.bounds_scales
    assert checkpoint.load(old).model.config.latent.bounds_scales
    # Imported weights of the release were trained without a bound, whatever they were run with.
    _write_without_the_field(tiny_weights, old, {"release.codec.h_s.mark": torch.zeros(1)})
    assert not config_of(old).latent.bounds_scales
    assert not checkpoint.load(old).model.config.latent.bounds_scales


def _stored_config(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["config"])


def _write_without_the_field(source: Path, target: Path, more: dict[str, Tensor] | None = None) -> None:
    with safe_open(source, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()} | (more or {})  # noqa: SIM118
    config = json.loads(header["config"])
    del config["latent"]["bounds_scales"]
    header["config"] = json.dumps(config, sort_keys=True)
    digest = checkpoint.Digest(header["config"], header["specs"])
    for name in sorted(tensors):
        digest.add(name, tensors[name])
    save_file(tensors, target, metadata=header | {"fingerprint": digest.fingerprint()})

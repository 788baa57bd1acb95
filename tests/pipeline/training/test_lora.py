"""Adapters beside frozen weights: what trains, what comes of it, and what a step of the full size needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.errors import CheckpointError, SettingError
from pipeline.training.checkpoint import load_trained
from pipeline.training.config import AdapterRanks, LossWeights, TrainConfig
from pipeline.training.freeze import freeze
from pipeline.training.loop import train
from pipeline.training.lora import load_base
from pipeline.training.memory import step_bytes
from pipeline.training.weight_source import open_source

RANKS = AdapterRanks(vae=2, DiT=3)
TINY = replace(DiTICConfig.tiny(), latent=replace(DiTICConfig.tiny().latent, bottleneck_cdf_length=23))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.open(sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))[0]).convert("RGB"))[:192, :256]


def settings(out: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        sources=(out / "photo.png",), out=out, num_steps=steps, batch_size=2, crop_size=128, adversarial_from=0,
        loss=LossWeights(ms_ssim=0, adversarial=0.5),
        cooldown_share=0.0, warmup_steps=1, log_every=1, save_every=2, adapters=RANKS, learning_rate=1e-2,
    )  # fmt: skip


def base() -> DiTIC:
    torch.manual_seed(1)
    return DiTIC(TINY)


def test_adapters_the_codec_and_the_condition_train_and_nothing_else(tmp_path: Path, photo: np.ndarray) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        Image.fromarray(photo).save(folder / "photo.png")
    with pytest.raises(SettingError, match="--base"):
        train(settings(whole, 4), TINY)
    checkpoint = train(settings(whole, 4), TINY, base=base)
    train(settings(parts, 2), TINY, base=base)
    resumed = train(settings(parts, 4), TINY)  # what was frozen is in the checkpoint
    a, b = (torch.load(path, weights_only=True) for path in (checkpoint, resumed))
    assert all(torch.equal(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part])
    with pytest.raises(CheckpointError, match="another model"):
        train(replace(settings(parts, 5), adapters=None), TINY)
    # The average holds the frozen weights of the model themselves: the file does not hold them twice.
    frozen = "DiT.transformer_blocks.0.attn1.to_q.base_layer.weight"
    assert a["model"][frozen].untyped_storage().data_ptr() == a["ema"][frozen].untyped_storage().data_ptr()

    before = base().state_dict()
    model, run = load_trained(checkpoint, averaged=False)
    after = model.state_dict()
    assert run["adapters"] == {"vae": 2, "DiT": 3}
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts_changed = {name.split(".")[0] for name in changed}
    assert parts_changed == {"vae", "DiT", "codec", "prompter"}
    # The decoder's last layer is only asked for its gradient, by the adversary.
    assert not any(name.startswith(("vae.encoder", "vae.decoder.conv_out")) for name in changed)
    difference = after["DiT.transformer_blocks.0.attn1.to_q.weight"] - before["DiT.transformer_blocks.0.attn1.to_q.weight"]
    assert int(torch.linalg.matrix_rank(difference, rtol=1e-3)) == 3
    assert "DiT.caption_projection.linear_1.weight" not in changed

    report = freeze(checkpoint, tmp_path / "frozen.safetensors", [photo])
    codec = DiTICCodec.load(tmp_path / "frozen.safetensors")
    assert codec.info.model == report.fingerprint
    assert codec.decode(codec.encode([photo]))[0].shape == photo.shape


def test_a_base_is_a_merged_checkpoint_or_a_folder_of_parts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = base()
    names = {"vae": "vae", "DiT": "transformer"}
    for part, folder in names.items():
        (tmp_path / "sana" / folder).mkdir(parents=True)
        save_file(model.get_submodule(part).state_dict(), tmp_path / "sana" / folder / "model.safetensors")
    torch.save(model.aux_codec.state_dict(), tmp_path / "elic.pth")
    source, elic = open_source(str(tmp_path / "sana")), open_source(str(tmp_path / "elic.pth"))
    loaded = load_base(source, TINY, elic=elic)
    for part in ("vae", "DiT", "aux_codec"):
        state = model.get_submodule(part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in loaded.get_submodule(part).state_dict().items())
    with pytest.raises(SettingError, match="--elic"):
        load_base(source, TINY)
    with pytest.raises(CheckpointError, match="shape"):
        load_base(source, replace(TINY, transformer=replace(TINY.transformer, mlp_ratio=4.0)), elic=elic)
    torch.save({"ema": {}}, tmp_path / "lora.pt")
    with pytest.raises(SettingError, match="holds adapters"):
        load_base(open_source(str(tmp_path / "lora.pt")), TINY)


def test_a_step_at_full_size_fits_into_80_gigabytes() -> None:
    config = TrainConfig(sources=(), out=Path(), adapters=AdapterRanks(), batch_size=16, crop_size=512, rate_weights=(0.5,))
    num_bytes = step_bytes(config, DiTICConfig.full())
    # The weights alone are 4.2 GB in float32.
    assert 4.2e9 < num_bytes < 60e9


@pytest.mark.gpu
def test_a_step_at_full_size_on_cuda(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(np.tile(photo, (3, 2, 1))).save(tmp_path / "photo.png")
    full = DiTICConfig.full()
    config = TrainConfig(
        sources=(tmp_path / "photo.png",), out=tmp_path, num_steps=1, batch_size=4, crop_size=512, log_every=1, save_every=1,
        adapters=AdapterRanks(), rate_weights=(0.5,), device="cuda", sample_every=1, learning_rate=1e-4,
    )  # fmt: skip
    lines: list[dict[str, float]] = []
    train(config, full, lines.append, base=lambda: DiTIC(full))
    assert np.isfinite(lines[0]["loss"])
    assert torch.cuda.max_memory_allocated() < 80e9

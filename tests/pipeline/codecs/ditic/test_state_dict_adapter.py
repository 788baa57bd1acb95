"""Released tensors in, the very same tensors in our model, or an error that names what is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.state_dict_adapter import (
    ADAPTED,
    from_lora,
    from_merged,
    is_lora,
    joined,
    merge_adapters,
    read_tensors,
)
from pipeline.errors import CheckpointError
from tests.pipeline.codecs.ditic.released import CONFIG, LoraRelease, merged_state


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return merged_state()


def test_a_merged_checkpoint_is_loaded_tensor_for_tensor(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "q1.pt")
    contents = read_tensors(tmp_path / "q1.pt")
    assert not is_lora(contents)
    adapted = from_merged(contents, CONFIG)
    assert (adapted.layout, adapted.weights) == ("merged", "merged")
    ours = adapted.model.state_dict()
    assert ours.keys() == {name for name in state if not name.startswith("loss.")}
    assert all(torch.equal(value, state[name]) for name, value in ours.items())


def test_an_old_file_format_and_half_precision_are_read_too(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(half, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    # The scale table decides which CDF a symbol takes: rounded to half precision it is another one.
    half["codec.gaussian_conditional.scale_table"] = state["codec.gaussian_conditional.scale_table"]
    model = from_merged(half, CONFIG).model
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with pytest.raises(CheckpointError, match="scale_table"):
        from_merged(read_tensors(tmp_path / "old.pt"), CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("codec.g_s.synthesis_transform.0.dc.0.weight"), "lacks codec.g_s.synthesis_transform.0.dc.0.weight"),
        (lambda s: s.update({"codec.extra": torch.zeros(1)}), "unexpected codec.extra"),
        (lambda s: s.update({"prompter.pattern": torch.zeros(1, 2, 3)}), r"prompter.pattern has shape \(1, 2, 3\), must have"),
        (lambda s: s.update({"prompter.pattern": s["prompter.pattern"].int()}), "prompter.pattern"),
        (lambda s: s.update({"codec.g_a.pre2.0.down.bias": torch.ones(4)}), "two names"),
        (lambda s: s.update({"epoch": 3}), "no tensor: epoch"),
        (lambda s: s["codec.gaussian_conditional._quantized_cdf"].zero_(), "CDF tables cannot be used"),
        (lambda s: s.update({"codec.entropy_bottleneck._quantized_cdf": torch.zeros(0)}), "CDF tables are empty"),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("DiT.")], "and .* more"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, torch.Tensor], change: Any, message: str) -> None:
    changed = {name: value.clone() for name, value in state.items()}
    change(changed)
    with pytest.raises(CheckpointError, match=message):
        from_merged(changed, CONFIG)


def test_the_published_sizes_refuse_other_shapes_without_building_the_model(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="must have"):
        from_merged(state, DiTICConfig.full())


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "a.pt")
    torch.save([torch.zeros(1)], tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_tensors(tmp_path / "b.pt")
    torch.save({"code": Path("anything that runs when unpickled")}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "c.pt")


@pytest.mark.parametrize("base_layers", [False, True], ids=["adapters alone", "base layers too"])
@pytest.mark.parametrize("adapter_name", [False, True], ids=["no adapter name", "default"])
@pytest.mark.parametrize("peft_names", [False, True], ids=["bare", "base_model"])
def test_adapters_are_merged_into_their_base(peft_names: bool, adapter_name: bool, base_layers: bool) -> None:
    release = LoraRelease(peft_names=peft_names, adapter_name=adapter_name, base_layers=base_layers)
    contents = {"model": release.weights, "ema": {}, "step": 9}
    assert is_lora(contents)
    elic = {"state_dict": {**{f"g_a.{n}": v for n, v in release.elic.items()}, "h_a.0.weight": torch.zeros(1)}}
    adapted = from_lora(contents, CONFIG, vae=release.vae, transformer=release.transformer, elic=elic)
    assert (adapted.layout, adapted.weights) == ("lora", "model")
    ours = adapted.model.state_dict()
    assert ours.keys() == release.merged.keys()
    for name, value in ours.items():
        assert torch.allclose(value, release.merged[name], atol=1e-6), name
    assert not any(hasattr(module, "peft_config") for module in adapted.model.modules())


def test_the_weights_as_trained_are_taken_unless_their_average_is_asked_for() -> None:
    # It holds all base layers, so it needs no other base.
    release = LoraRelease(peft_names=False, adapter_name=True, base_layers=True)
    average = {part: {n: v + 1 if v.is_floating_point() else v for n, v in p.items()} for part, p in release.weights.items()}
    contents = {"model": release.weights, "ema": average}
    for use_ema, added in ((False, 0), (True, 1)):
        adapted = from_lora(contents, CONFIG, elic=release.elic, use_ema=use_ema)
        assert adapted.weights == ("ema" if use_ema else "model")
        found = adapted.model.state_dict()["prompter.pattern"]
        assert torch.allclose(found, release.merged["prompter.pattern"] + added)
    with pytest.raises(CheckpointError, match="no `model` weights; take `ema` with --use-ema"):
        from_lora({"ema": average}, CONFIG, elic=release.elic)
    with pytest.raises(CheckpointError, match="no `ema` weights; take `model` with --no-use-ema"):
        from_lora({"model": average}, CONFIG, elic=release.elic, use_ema=True)


@pytest.mark.parametrize("tables", ["empty", "stale"])
def test_the_tables_of_a_lora_checkpoint_are_computed_whatever_it_holds(tables: str) -> None:
    release = LoraRelease(peft_names=False, adapter_name=True, base_layers=False, tables=tables)
    adapted = from_lora({"model": release.weights}, CONFIG, vae=release.vae, transformer=release.transformer, elic=release.elic)
    ours = adapted.model.state_dict()
    held = release.weights["state_dict_codec"]
    for prior in ("entropy_bottleneck", "gaussian_conditional"):
        for name in ("_quantized_cdf", "_offset", "_cdf_length"):
            key = f"{prior}.{name}"
            assert held[key].numel() == 0 or not torch.equal(held[key], ours[f"codec.{key}"])
            assert torch.equal(ours[f"codec.{key}"], release.merged[f"codec.{key}"])
    scale_table = ours["codec.gaussian_conditional.scale_table"]
    assert torch.equal(scale_table, torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)))
    width = ours["codec.entropy_bottleneck._quantized_cdf"].shape[1]
    assert adapted.model.config.latent.bottleneck_cdf_length == width > 0


def test_a_missing_base_or_adapter_is_named() -> None:
    release = LoraRelease(peft_names=True, adapter_name=True, base_layers=False)
    known: dict[str, Any] = {"vae": release.vae, "transformer": release.transformer, "elic": release.elic}
    with pytest.raises(CheckpointError, match=r"lacks vae\..*name it with --base"):
        from_lora({"model": release.weights}, CONFIG, elic=release.elic)
    with pytest.raises(CheckpointError, match=r"lacks aux_codec\..*name it with --elic"):
        from_lora({"model": release.weights}, CONFIG, vae=release.vae, transformer=release.transformer)
    dit = release.weights["state_dict_DiT"]
    fewer = {name: value for name, value in dit.items() if "attn1.to_q.lora_B" not in name}
    with pytest.raises(CheckpointError, match=r"lacks DiT\.transformer_blocks\.0\.attn1\.to_q\.lora_B"):
        from_lora({"model": {**release.weights, "state_dict_DiT": fewer}}, CONFIG, **known)
    more = {**dit, "base_model.model.patch_embed.proj.lora_A.default.weight": torch.zeros(2, 8, 1, 1)}
    with pytest.raises(CheckpointError, match=r"unexpected DiT\.patch_embed\.proj\.lora_A"):
        from_lora({"model": {**release.weights, "state_dict_DiT": more}}, CONFIG, **known)
    with pytest.raises(CheckpointError, match="must have one rank"):
        from_lora({"model": {**release.weights, "state_dict_vae": {}}}, CONFIG, **known)
    with pytest.raises(CheckpointError, match="lacks state_dict_prompter"):
        from_lora({"model": {n: v for n, v in release.weights.items() if n != "state_dict_prompter"}}, CONFIG, **known)


def test_adapters_sit_where_the_published_sizes_have_them() -> None:
    import re

    with torch.device("meta"):
        model = DiTIC(DiTICConfig.full())
    found = {
        part: [n for n, _ in model.get_submodule(part).named_modules() if re.fullmatch(pattern, n)]
        for part, pattern in ADAPTED.items()
    }
    # Ten in each of 28 layers, and the last projection; the decoder's first convolution, two a ResBlock, five an EfficientViT.
    assert len(found["DiT"]) == 28 * 10 + 1
    assert len(found["vae"]) == 1 + 9 * 2 + 9 * 5
    assert not any(name.startswith("encoder") for name in found["vae"])


def test_a_base_in_several_files_is_joined(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(1)}, tmp_path / "2.safetensors")
    files = [read_tensors(tmp_path / f"{i}.safetensors") for i in (1, 2)]
    assert joined(files).keys() == {"a", "b"}
    with pytest.raises(CheckpointError, match="a is in two files"):
        joined([*files, files[0]])
    module = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="one rank"):
        merge_adapters(module, {}, ".*")

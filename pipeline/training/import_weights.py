"""Weights of the official release in, a frozen checkpoint out; nothing is trained.

At full size the weights are 4.2 GB. They stay mapped to their file, and only what calibration changes is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.state_dict_adapter import Adapted, from_lora, from_merged, is_lora, joined, read_tensors
from pipeline.errors import SettingError
from pipeline.progress import OnStep, ignore_step
from pipeline.training.freeze import FreezeReport, freeze_model
from pipeline.training.weight_source import WeightSource, describe

MAX_CALIBRATION_SIDE = 512
"""Calibration photos are cut to their middle: full-size networks over a whole photo would need more memory than there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What came of an import."""

    frozen: FreezeReport
    provenance: dict[str, Any]
    """As it stands in the checkpoint: layout, weights, tables, and location, revision and SHA-256 of every source file."""


def import_weights(
    source: WeightSource,
    target: Path,
    calibration: Sequence[NDArray[np.uint8]],
    *,
    file: str | None = None,
    base: WeightSource | None = None,
    elic: WeightSource | None = None,
    use_ema: bool = False,
    float32: bool = False,
    config: DiTICConfig | None = None,
    on_step: OnStep = ignore_step,
) -> ImportReport:
    """Make the frozen checkpoint `target`.

    Args:
        calibration: photos, H x W x 3 uint8, of varied content.
        file: which file of `source`, if it holds several.
        base: what a LoRA checkpoint was trained on, in diffusers' layout: `transformer/` and `vae/`.
        elic: ELIC's weights, which a LoRA checkpoint does not hold.
        use_ema: of a LoRA checkpoint, take the moving average of its weights.
        float32: store all weights in float32, not in float16.
        config: sizes; None for the published ones.
        on_step: called as each step gets on.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
        SettingError: a source does not hold what it should, or an option is given that a merged checkpoint does not need.
        StorageError: a repository cannot be reached.
    """
    config = config or DiTICConfig.full()
    path = source.checkpoint(file)
    contents = read_tensors(path)
    lora = is_lora(contents)
    if not lora and (base or elic or use_ema):
        raise SettingError(
            f"{path.name} is a merged checkpoint: it needs neither --base nor --elic, and holds no --use-ema weights"
        )
    provenance: dict[str, Any] = {"source": describe(source.location, source.revision, [path], on_step)}
    if lora:
        adapted = _adapt(contents, config, base, elic, provenance, use_ema=use_ema, on_step=on_step)
    else:
        adapted = from_merged(contents, config)
    tables = "computed at import" if lora else "carried"
    provenance |= {"layout": adapted.layout, "weights": adapted.weights, "cdf_tables": tables}
    del contents
    frozen = freeze_model(
        adapted.model,
        target,
        [_middle(photo) for photo in calibration],
        {"provenance": provenance},
        released=True,
        dtype=torch.float32 if float32 else torch.float16,
        on_step=on_step,
    )
    return ImportReport(frozen=frozen, provenance=provenance)


def _adapt(
    contents: dict[str, Any],
    config: DiTICConfig,
    base: WeightSource | None,
    elic: WeightSource | None,
    provenance: dict[str, Any],
    *,
    use_ema: bool,
    on_step: OnStep,
) -> Adapted:
    """The model of a LoRA checkpoint; adds to `provenance` what it is based on."""
    components: dict[str, Any] = {}
    if base is not None:
        files = {name: base.component(name) for name in ("vae", "transformer")}
        components = {name: joined(read_tensors(p) for p in paths) for name, paths in files.items()}
        provenance["base"] = describe(base.location, base.revision, [p for paths in files.values() for p in paths], on_step)
    if elic is not None:
        path = elic.checkpoint()
        components["elic"] = read_tensors(path)
        provenance["elic"] = describe(elic.location, elic.revision, [path], on_step)
    return from_lora(contents, config, **components, use_ema=use_ema)


def _middle(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (side - MAX_CALIBRATION_SIDE) // 2) for side in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + MAX_CALIBRATION_SIDE, left : left + MAX_CALIBRATION_SIDE])

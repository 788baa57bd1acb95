"""Weights of the official release in, a frozen checkpoint out; nothing is trained, and their CDF tables stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.state_dict_adapter import Adapted, from_lora, from_merged, is_lora, joined, read_tensors
from pipeline.errors import SettingError
from pipeline.training.freeze import FreezeReport, freeze_model
from pipeline.training.weight_source import WeightSource, describe

MAX_CALIBRATION_SIDE = 512
"""Calibration photos are cut to their middle: full-size networks over a whole photo would need more memory than there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What came of an import."""

    frozen: FreezeReport
    provenance: dict[str, Any]
    """As it stands in the checkpoint: layout, tables, and location, revision and SHA-256 of every file it came from."""


def import_weights(
    source: WeightSource,
    target: Path,
    calibration: Sequence[NDArray[np.uint8]],
    *,
    file: str | None = None,
    base: WeightSource | None = None,
    elic: WeightSource | None = None,
    config: DiTICConfig | None = None,
) -> ImportReport:
    """Make the frozen checkpoint `target`.

    Args:
        calibration: photos, H x W x 3 uint8, of varied content.
        file: which file of `source`, if it holds several.
        base: what a LoRA checkpoint was trained on, in diffusers' layout: `transformer/` and `vae/`.
        elic: ELIC's weights, which a LoRA checkpoint does not hold.
        config: sizes; None for the published ones.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
        SettingError: a source does not hold what it should, or a base is given that nothing needs.
        StorageError: a repository cannot be reached.
    """
    config = config or DiTICConfig.full()
    path = source.checkpoint(file)
    contents = read_tensors(path)
    provenance: dict[str, Any] = {"source": describe(source.location, source.revision, [path])}
    if not is_lora(contents):
        if base or elic:
            raise SettingError(f"{path.name} is a merged checkpoint: it needs neither --base nor --elic")
        adapted = from_merged(contents, config)
    else:
        adapted = _adapt(contents, config, base, elic, provenance)
    provenance |= {"layout": adapted.layout, "cdf_tables": "carried" if adapted.has_tables else "computed at import"}
    del contents
    cut = [_middle(photo) for photo in calibration]
    report = freeze_model(adapted.model, target, cut, {"provenance": provenance}, released=True)
    return ImportReport(frozen=report, provenance=provenance)


def _adapt(
    contents: dict[str, Any],
    config: DiTICConfig,
    base: WeightSource | None,
    elic: WeightSource | None,
    provenance: dict[str, Any],
) -> Adapted:
    """The model of a LoRA checkpoint; adds to `provenance` what it is based on."""
    components: dict[str, Any] = {}
    if base is not None:
        files = {name: base.component(name) for name in ("vae", "transformer")}
        components = {name: joined(read_tensors(p) for p in paths) for name, paths in files.items()}
        provenance["base"] = describe(base.location, base.revision, [p for paths in files.values() for p in paths])
    if elic is not None:
        path = elic.checkpoint()
        components["elic"] = read_tensors(path)
        provenance["elic"] = describe(elic.location, elic.revision, [path])
    return from_lora(contents, config, **components)


def _middle(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (side - MAX_CALIBRATION_SIDE) // 2) for side in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + MAX_CALIBRATION_SIDE, left : left + MAX_CALIBRATION_SIDE])

"""What an encoding must reach, measured on its decoded stream, to stand for its photo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import SettingError
from pipeline.quality.rate_distortion import METRICS

_METRICS = {metric.key: metric for metric in METRICS}
_UNITS = {"psnr": " dB"}


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds of metrics; none at all lets everything pass, unmeasured."""

    bounds: tuple[tuple[str, float], ...] = ()
    """Key of a metric, and what is just good enough: the least score, or the greatest distance."""

    def __bool__(self) -> bool:
        return bool(self.bounds)

    @property
    def metrics(self) -> frozenset[str]:
        """Keys of what it asks for."""
        return frozenset(name for name, _ in self.bounds)

    def refusal(self, scores: Mapping[str, float | None]) -> str | None:
        """Why an encoding with these scores may not stand for its photo; None when it may.

        A metric that cannot be measured on a photo does not let it pass: the next rung is then the safe choice.

        Args:
            scores: of all its `metrics`; infinite PSNR, of equal photos, passes.
        """
        for name, bound in self.bounds:
            metric, score = _METRICS[name], scores[name]
            if score is None:
                return f"{metric.label} cannot be measured on a photo this small"
            if score > bound if metric.is_distance else score < bound:
                side = "over" if metric.is_distance else "under"
                return f"{metric.label} {score:.4g}{_UNITS.get(name, '')} is {side} {bound:g}"
        return None


NO_GATE = Gate()


def parse_gate(text: str) -> Gate:
    """`ms_ssim=0.95,psnr=24,perceptual=0.2` as a gate: at least so much, and of distances at most.

    Raises:
        SettingError: an unknown metric, or no number.
    """
    bounds = []
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in _METRICS:
            raise SettingError(
                f"--gate {text}: {name!r} is no metric; choose of {', '.join(_METRICS)}, as in ms_ssim=0.95,psnr=24"
            )
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise SettingError(f"--gate {text}: {value!r} is no number")
        bounds.append((name, bound))
    return Gate(tuple(bounds))

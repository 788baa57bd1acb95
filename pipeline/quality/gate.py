"""What an encoding must reach, measured on its decoded stream, to stand for its photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SettingError

if TYPE_CHECKING:
    from pipeline.quality.metrics import Quality

_NAMES = {"psnr": "PSNR", "ms_ssim": "MS-SSIM"}
_UNITS = {"psnr": " dB", "ms_ssim": ""}


@dataclass(frozen=True, slots=True)
class Gate:
    """Least values of metrics; none at all lets everything pass, unmeasured."""

    least: tuple[tuple[str, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.least)

    def refusal(self, quality: Quality) -> str | None:
        """Why an encoding of this quality may not stand for its photo; None when it may.

        A metric that cannot be measured on a photo does not let it pass: the next rung is then the safe choice.
        """
        values: Mapping[str, float | None] = {"psnr": quality.psnr, "ms_ssim": quality.ms_ssim}
        for name, least in self.least:
            value = values[name]
            if value is None:
                return f"{_NAMES[name]} cannot be measured on a photo this small"
            if value < least:
                return f"{_NAMES[name]} {value:.4g}{_UNITS[name]} is under {least:g}"
        return None


NO_GATE = Gate()


def parse_gate(text: str) -> Gate:
    """`ms_ssim=0.95,psnr=24` as a gate.

    Raises:
        SettingError: an unknown metric, or no number.
    """
    least = []
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in _NAMES:
            raise SettingError(
                f"--gate {text}: {name!r} is no metric; choose of {', '.join(_NAMES)}, as in ms_ssim=0.95,psnr=24"
            )
        try:
            least.append((name, float(value)))
        except ValueError:
            raise SettingError(f"--gate {text}: {value!r} is no number") from None
    return Gate(tuple(least))

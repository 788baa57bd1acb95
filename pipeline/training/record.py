"""What a run leaves to look at: `log.jsonl`, TensorBoard's events, and sample reconstructions.

OUT/log.jsonl                 a JSON object every `log_every` steps
OUT/tensorboard/              the same as curves, and the samples
OUT/samples/step-000500.png   a row a photo: the original, then each quality from the lowest
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.codecs.ditic.model import DiTIC

LOG_NAME = "log.jsonl"
_GAP = 4
"""White pixels between the pictures of a sheet."""


class Record:
    """Writes into the folder of a run."""

    def __init__(self, out: Path, *, first_step: int) -> None:
        """Go on in `out`; of what TensorBoard has there, events after `first_step` are void."""
        from tensorboardX import SummaryWriter

        self._out = out
        self._events = SummaryWriter(str(out / "tensorboard"), purge_step=first_step or None)

    def line(self, values: dict[str, Any]) -> None:
        """A line of the log: numbers by name, `step` among them."""
        with (self._out / LOG_NAME).open("a") as handle:
            handle.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "step":
                self._events.add_scalar(name, value, values["step"])
        self._events.flush()

    def samples(self, step: int, sheet: NDArray[np.uint8]) -> Path:
        """Keep a sheet of reconstructions, H x W x 3; returns its path."""
        path = self._out / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(path)
        self._events.add_image("samples", sheet, step, dataformats="HWC")
        self._events.flush()
        return path

    def close(self) -> None:
        """Release the files."""
        self._events.close()


@torch.no_grad()
def reconstructions(model: DiTIC, x: Tensor, *, bf16: bool) -> NDArray[np.uint8]:
    """A sheet of B rows: each photo of x, B x 3 x H x W in [-1, 1], beside what comes back of it at each quality."""
    was_training = model.training
    model.eval()
    columns = [x]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        for quality in range(model.config.latent.num_qualities):
            # One by one: a sheet is no reason to run out of memory.
            columns.append(torch.cat([model(each[None], torch.tensor([quality], device=x.device)).x_hat for each in x]).float())
    model.train(was_training)
    pictures = torch.stack(columns, 1)  # B x columns x 3 x H x W
    pictures = torch.nn.functional.pad((pictures.clamp(-1, 1) + 1) * 127.5, (0, _GAP, 0, _GAP), value=255.0)
    sheet = pictures.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return sheet[:-_GAP, :-_GAP].round().byte().cpu().numpy()

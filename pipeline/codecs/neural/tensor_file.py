"""safetensors files, written and read one tensor at a time: memory seldom has room for a full-size model twice.

The safetensors package writes a file from tensors that are all in memory, and its readers map the whole file, whose pages then
count as memory of the process until the mapping is closed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_MAPPED_BYTES = 1 << 28
"""A file is mapped anew after so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor and the number format that it is to be stored in."""

    value: Tensor
    dtype: torch.dtype

    def converted(self) -> Tensor:
        """What the file holds: contiguous, on the CPU."""
        return self.value.detach().to("cpu", self.dtype).contiguous()


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str], on_written: Callable[[int], None]) -> None:
    """Write a safetensors file; it appears under its name once it is complete.

    Args:
        on_written: called with the bytes of each tensor once it is written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    # Wide numbers first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    offset = 0
    for name in order:
        stored = tensors[name]
        end = offset + stored.value.numel() * stored.dtype.itemsize
        header[name] = {"dtype": _DTYPES[stored.dtype], "shape": list(stored.value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                on_written(file.write(raw_bytes(tensors[name].converted())))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a safetensors file, in the order of their names; copy those to keep, or the file stays mapped."""
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
    while names:
        num_bytes = 0
        with safe_open(path, framework="pt") as file:
            while names and num_bytes < _MAPPED_BYTES:
                name = names.pop(0)
                tensor = file.get_tensor(name)
                num_bytes += tensor.nbytes
                yield name, tensor
                del tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor on the CPU, not copied if it is contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data

"""What one call of an encoding actor did, and when: it travels beside the rows to the driver, for metrics and reports."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass

import pyarrow as pa
import ray

WORK = "work"
"""Column that a call's first row holds its work in; null in the others."""
READ_S = "read_s"
"""Column of the read stage: how long reading the file took."""
_TYPE = pa.struct(
    [
        ("node", pa.string()),
        ("actor", pa.string()),
        ("codec_started_at", pa.float64()),
        ("read_s", pa.float64()),
        ("pixels_s", pa.float64()),
        ("wait_s", pa.float64()),
        ("codec_s", pa.float64()),
        ("num_photos", pa.int64()),
        ("num_pixels", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """One call of an actor: one block of photos."""

    node: str
    """Ray's id of the machine; its host name without Ray."""
    actor: str
    codec_started_at: float
    """Unix time from which on the codec worked for this call alone."""
    read_s: float
    """Sum over the files; they are read side by side with other blocks."""
    pixels_s: float
    """Decoding the files to pixels, while the codec works for another call."""
    wait_s: float
    """For the codec."""
    codec_s: float
    """Holding the codec: encoding and, with a gate, decoding and measuring."""
    num_photos: int
    num_pixels: int


def where() -> tuple[str, str]:
    """(node, actor) of this process."""
    if not ray.is_initialized():
        return platform.node(), str(os.getpid())
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_actor_id() or str(os.getpid())


def with_work(rows: pa.Table, work: BlockWork) -> pa.Table:
    """`rows` and the column `WORK`."""
    return rows.append_column(WORK, pa.array([asdict(work)] + [None] * (rows.num_rows - 1), _TYPE))


def with_no_work(rows: pa.Table) -> pa.Table:
    """`rows` and an empty column `WORK`."""
    return rows.append_column(WORK, pa.nulls(rows.num_rows, _TYPE))


def split_work(table: pa.Table) -> tuple[pa.Table, list[BlockWork]]:
    """Inverse of `with_work`, for the rows of any number of calls."""
    held = table[WORK].drop_null().to_pylist()
    return table.drop_columns([WORK]), [BlockWork(**record) for record in held]

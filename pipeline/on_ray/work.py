"""What one call of an encoding actor did, and when: it travels beside the rows to the driver, for metrics and reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
import ray._private.worker

WORK = "work"
"""Column that a call's first row holds its work in; null in the others."""
STAGE = "stage"
"""Column: the stage in which a photo failed; null where none did."""
ATTEMPT = "attempt"
"""Column: which try of the job at the photo this was; 1 is the first."""
TRIES_TOGETHER = 2
"""At a block of photos; those that then have not come out are tried each by itself."""
TRIES_ALONE = 2
"""The first end may have come from outside."""
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


def attempt() -> int:
    """Which try of Ray's at the task at hand this is; 1 is the first, a second follows where a process ended."""
    if not ray.is_initialized():
        return 1
    # It has no other door in 2.60.
    worker: Any = ray._private.worker.global_worker
    return 1 + int(worker.core_worker.get_current_task_attempt_number())


def with_work(rows: pa.Table, work: BlockWork, stages: Sequence[str | None]) -> pa.Table:
    """`rows` and the columns `WORK`, `STAGE` and `ATTEMPT`; `stages` are those in which photos failed."""
    return with_ends(rows, stages, attempt()).append_column(
        WORK, pa.array([asdict(work)] + [None] * (rows.num_rows - 1), _TYPE)
    )


def with_no_work(rows: pa.Table, stage: str, attempt: int) -> pa.Table:
    """`rows` of photos that failed in `stage`, and an empty column `WORK`."""
    return with_ends(rows, [stage] * rows.num_rows, attempt).append_column(WORK, pa.nulls(rows.num_rows, _TYPE))


def with_ends(rows: pa.Table, stages: Sequence[str | None], attempt: int) -> pa.Table:
    """`rows` and the columns `STAGE` and `ATTEMPT`, in place of those that they have."""
    rows = rows.drop_columns([name for name in (STAGE, ATTEMPT) if name in rows.column_names])
    rows = rows.append_column(STAGE, pa.array(stages, pa.string()))
    return rows.append_column(ATTEMPT, pa.array([attempt] * rows.num_rows, pa.int64()))


def split_work(table: pa.Table) -> tuple[pa.Table, list[BlockWork]]:
    """Inverse of `with_work`, for the rows of any number of calls."""
    done = [BlockWork(**record) for record in table[WORK].to_pylist() if record is not None]
    return table.drop_columns([WORK, STAGE, ATTEMPT]), done

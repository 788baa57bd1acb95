"""Log lines of a job on Ray: what came back to the driver, and those of workers, which are alike but for node and actor."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.logs import LogOptions, start_logs
from pipeline.on_ray.work import ATTEMPT, STAGE, TRIES_TOGETHER, WORK, where

log = logging.getLogger(__name__)
_OPTIONS = "PHOTOARK_WORKER_LOGS"


def with_logs(options: LogOptions) -> dict[str, Any]:
    """Runtime environment of a job whose workers write such lines."""
    text = json.dumps(asdict(options), default=str)
    return {"worker_process_setup_hook": f"{__name__}.{start_worker_logs.__name__}", "env_vars": {_OPTIONS: text}}


def start_worker_logs() -> None:
    """What Ray calls in every worker of such a job, before anything else."""
    found = json.loads(os.environ[_OPTIONS])
    options = LogOptions(**found | {"file": found["file"] and Path(found["file"])})
    start_logs(options, lambda: dict(zip(("node", "actor"), where(), strict=True)))


def log_rows(table: pa.Table, tries_before: int = 0) -> None:
    """Tell of photos that failed and of blocks that were done again, in a table of any stage that has `STAGE` and `ATTEMPT`.

    Args:
        tries_before: at the photos of this table, by this job, which Ray does not know of.
    """
    if _is_nothing_to_tell(table):
        return
    names = [name for name in ("key", "reason", STAGE, ATTEMPT, WORK) if name in table.column_names]
    place: dict[str, Any] = {}
    for i, row in enumerate(table.select(names).to_pylist()):
        tries = {"attempt": tries_before + row[ATTEMPT]}
        if work := row.get(WORK):
            place = {name: work[name] for name in ("node", "actor")}
            log.debug("block", extra=work | tries)
        if row[ATTEMPT] == TRIES_TOGETHER and (work or (i == 0 and WORK not in names)):
            log.warning("a block was done again, because the process that had it ended", extra=place | tries)
        if row[STAGE] is not None:
            told = {"key": row["key"], "stage": row[STAGE], "reason": row["reason"]}
            log.warning("photo failed", extra=told | tries | place)


def _is_nothing_to_tell(table: pa.Table) -> bool:
    """As of most tables; found out without making Python objects of them."""
    did_all_pass = table[STAGE].null_count == table.num_rows
    return did_all_pass and not log.isEnabledFor(logging.DEBUG) and not pc.any(pc.equal(table[ATTEMPT], TRIES_TOGETHER)).as_py()

"""Training on several workers: Ray Train starts them, and again if one dies; Ray Data makes what they train on.

    driver ── run_workers ──► worker 0 .. N-1, one process each, in one process group (gloo, on GPUs nccl)
       ▲                          │  ▲
       └───── lines of the log ───┘  └── stream: tasks all over the cluster, in the order of the steps

What a worker does is a function that the caller brings: nothing in here knows of models.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import ExecutionResources
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from pipeline.on_ray.resources import plan_training
from pipeline.openmp import worker_environment

MAX_FAILURES = 3
"""Times that all workers are started anew because one died or failed."""
_ITEMS_PER_BLOCK = 8
"""Of a stream: what one task makes."""
_MAX_BLOCKS = 10_000
"""Each is a task that Ray keeps in mind from the start."""

Item = dict[str, NDArray[Any]]
Report = Callable[[dict[str, Any]], None]


class WorkersFailed(Exception):
    """Workers died or failed too often; `failures` holds what each raised last."""

    def __init__(self, failures: list[Exception]) -> None:
        super().__init__("; ".join((str(failure).splitlines() or [repr(failure)])[0] for failure in failures))
        self.failures = failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One of the workers, as itself sees it."""

    rank: int
    size: int
    """How many there are."""
    device: str
    """cpu, or cuda with a number."""
    cpus_per_stream: float
    """For the tasks that feed it, as Ray counts."""

    def stream(self, indices: range, make: Callable[[int], Item]) -> Iterator[Item]:
        """As `stream`, with this worker's share of the cores."""
        return stream(indices, make, cpus=self.cpus_per_stream)


def run_workers(
    work: Callable[[Worker, Report], None], *, num_workers: int, device: str = "auto", folder: Path, on_report: Report
) -> None:
    """Call `work` on every worker and wait for all.

    Args:
        work: gets the worker and a function that hands a line to `on_report`, here. Once a worker died or failed it is
            called anew on all of them, up to `MAX_FAILURES` times, and should go on from where it last saved.
        device: auto, cpu or cuda; auto takes a GPU for each worker if the cluster has any.
        folder: where Ray Train keeps its own state; all machines must see it.

    Raises:
        SettingError: the cluster has too few GPUs.
        WorkersFailed: they did so too often, or could not be started.
    """
    plan = plan_training(ray.cluster_resources(), num_workers, device=device)
    lines = Queue(actor_options={"num_cpus": 0})
    listener = threading.Thread(target=_listen, args=(lines, on_report), daemon=True)
    listener.start()

    def loop() -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        worker = Worker(
            rank=context.get_world_rank(),
            size=context.get_world_size(),
            device=str(get_device()),
            cpus_per_stream=plan.cpus_per_stream,
        )
        work(worker, lines.put)

    trainer = TorchTrainer(
        loop,
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker={"CPU": plan.cpus_per_worker, "GPU": plan.gpus_per_worker},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            # Its types are those of the class that it replaced.
            worker_runtime_env={"env_vars": worker_environment(plan.threads_per_worker)},  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise WorkersFailed(list(error.worker_failures.values())) from error
    except ControllerError as error:
        raise WorkersFailed([error.controller_failure]) from error
    finally:
        lines.put(None)
        listener.join()
        lines.shutdown()


def stream(indices: range, make: Callable[[int], Item], *, cpus: float | None = None) -> Iterator[Item]:
    """`make` of each index, in their order: computed by tasks on all machines, some ahead of whoever takes them.

    Args:
        make: arrays by name, of the same names and shapes for each index.
        cpus: that the tasks may use at once, as Ray counts them; None: all there are.
    """
    cpus = cpus or ray.cluster_resources().get("CPU", 1.0)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(cpu=cpus)
    num_blocks = min(_MAX_BLOCKS, -(-len(indices) // _ITEMS_PER_BLOCK))
    with ray.data.DataContext.current(context):
        items = ray.data.range(len(indices), override_num_blocks=num_blocks).map_batches(
            partial(_made, indices=indices, make=make), batch_size=1, num_cpus=min(1.0, cpus)
        )
        for block in items.iter_batches(batch_size=None, batch_format="numpy"):
            for i in range(len(block["id"])):
                yield {name: values[i] for name, values in block.items() if name != "id"}


def _made(rows: Item, *, indices: range, make: Callable[[int], Item]) -> Item:
    made = [make(indices[int(i)]) for i in rows["id"]]
    return {"id": rows["id"], **{name: np.stack([item[name] for item in made]) for name in made[0]}}


def _listen(lines: Queue, on_report: Report) -> None:
    while (line := lines.get()) is not None:
        on_report(line)

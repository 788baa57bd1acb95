"""Train a DiT-IC from photos: Muon and AdamW, gradient clipping, an exponential moving average, and a checkpoint to go on from.

The learning rate warms up, stays constant, and falls linearly to zero over the last part of the steps: a run stopped early
is resumed with fewer steps and cools down at once, a run that may go on is resumed with more.

One process holds its photos and goes on from a checkpoint to the bit, on the same machine. Several (`parallel`) stream theirs
(`streaming`) and see the same crops; each draws its own noise, and sums over workers are rounded in another order than
sums over a batch. So to the bit they go on with as many workers as before on machines of the same kind; with more, fewer or
one, the step, the optimizers, the average and the crops to come are those of the run that was broken off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.errors import SettingError
from pipeline.training.checkpoint import CHECKPOINT_NAME
from pipeline.training.config import TrainConfig
from pipeline.training.crops import CropPlan, Crops, CropSource, Draw
from pipeline.training.data import load_with_texts
from pipeline.training.losses import Loss
from pipeline.training.parallel import ALONE, Team
from pipeline.training.record import Record
from pipeline.training.run import Run
from pipeline.training.streaming import PhotoIndex, Stream, cut_from_files, streamed
from pipeline.training.warm_start import suits

log = logging.getLogger(__name__)
NUM_SAMPLES = 4
"""Crops on a sheet of reconstructions."""
_NUM_START_BATCHES = 16
"""That the transforms to start with are fitted to."""

Report = Callable[[dict[str, Any]], None]
LoadBase = Callable[[], DiTIC]


def train(
    config: TrainConfig, model_config: DiTICConfig, report: Report = lambda _: None, *, base: LoadBase | None = None
) -> Path:
    """Train until `config.num_steps`, going on from the checkpoint in `config.out` if there is one.

    Args:
        report: called with each line of the log.
        base: loads the weights that adapters stand beside; a run that is resumed has them in its checkpoint.

    Returns:
        Path of the checkpoint.

    Raises:
        SettingError: a source is missing, or the crop size does not suit the model.
        CheckpointError: the checkpoint there is of another model.
    """
    check(config, model_config)
    photos = load_with_texts(config.sources, min_side=config.crop_size)
    source = CropSource(photos.pixels, device=config.device)
    plan = _plan(config, source.sizes)

    def cut(draws: Sequence[Draw]) -> Crops:
        return source.cut(draws, config.crop_size)

    def batches(steps: range) -> Iterator[Crops]:
        return (cut(plan.of_step(step)) for step in steps)

    return _train(config, model_config, report, _Feed(plan=plan, cut=cut, batches=batches, texts=photos.texts), base, ALONE)


def train_as_worker(
    config: TrainConfig,
    model_config: DiTICConfig,
    report: Report = lambda _: None,
    *,
    base: LoadBase | None = None,
    index: PhotoIndex,
    stream: Stream,
    team: Team,
) -> Path:
    """As `train`, as one of several workers; all call this with the same arguments, the device and `team` aside.

    Args:
        report: called by the first worker alone.
        index: of the photos in `config.sources`.
        stream: makes this worker's crops.
    """
    check(config, model_config, num_workers=team.size)
    plan = _plan(config, index.sizes)

    def cut(draws: Sequence[Draw]) -> Crops:
        return cut_from_files(index, draws, config.crop_size)

    def batches(steps: range) -> Iterator[Crops]:
        return streamed(index, plan, steps, share=team.share(config.batch_size), stream=stream)

    return _train(config, model_config, report, _Feed(plan=plan, cut=cut, batches=batches, texts=index.texts), base, team)


def check(config: TrainConfig, model_config: DiTICConfig, *, num_workers: int = 1) -> None:
    """See that the settings suit the model, before anything is started.

    Raises:
        SettingError: they do not.
    """
    if config.crop_size % model_config.multiple:
        raise SettingError(f"the crop size must be a multiple of {model_config.multiple} for {model_config.name}")
    if config.batch_size % num_workers:
        raise SettingError(f"{config.batch_size} crops a step do not go evenly to {num_workers} workers: choose a multiple")
    for step in (0, config.num_steps):
        config.rate_weights_of(model_config.latent.num_qualities, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Feed:
    """Where crops come from."""

    plan: CropPlan
    cut: Callable[[Sequence[Draw]], Crops]
    """Makes any crops, at once."""
    batches: Callable[[range], Iterator[Crops]]
    """This worker's share of each step."""
    texts: NDArray[np.float32] | None


def _plan(config: TrainConfig, sizes: NDArray[np.int64]) -> CropPlan:
    return CropPlan(
        sizes=sizes,
        num_crops=config.batch_size,
        size=config.crop_size,
        synthetic_share=config.synthetic_share,
        seed=config.seed,
    )


def _train(
    config: TrainConfig, model_config: DiTICConfig, report: Report, feed: _Feed, base: LoadBase | None, team: Team
) -> Path:
    config.out.mkdir(parents=True, exist_ok=True)
    run = Run(config, model_config, base, feed.texts, team)
    log.info("training on %d photos from step %d to %d", len(feed.plan.sizes), run.step, config.num_steps)
    if run.step == 0 and suits(model_config):
        batches = [feed.cut(draws).pixels for draws in feed.plan.before_step_0(_NUM_START_BATCHES)]
        log.info("starting as a transform codec with steps of %.3f", run.start_as_transform_codec(batches))
    with closing(Record(config.out, first_step=run.step)) if team.leads else nullcontext() as record:
        samples = feed.cut(feed.plan.samples(NUM_SAMPLES)).pixels if record else None
        started, first_step = time.monotonic(), run.step
        losses: list[Loss] = []
        for crops in feed.batches(range(run.step, config.num_steps)):
            losses.append(run.update(crops))
            if run.step % config.log_every == 0:
                means = _means(losses, team)
                losses.clear()
                if record:
                    steps_per_s = round((run.step - first_step) / (time.monotonic() - started), 3)
                    line = {"step": run.step, **means, "learning_rate": run.learning_rate(), "steps_per_s": steps_per_s}
                    record.line(line)
                    report(line)
            if record and samples is not None and config.sample_every and run.step % config.sample_every == 0:
                record.samples(run.step, run.reconstructions(samples))
            if team.leads and (run.step % config.save_every == 0 or run.step == config.num_steps):
                run.save()
    return config.out / CHECKPOINT_NAME


def _means(losses: Sequence[Loss], team: Team) -> dict[str, float]:
    """What a line of the log says about the steps since the last; a term that came or went counts while it was there."""

    def mean(values: Iterable[Tensor], digits: int) -> float:
        return round(float(team.average(torch.stack(list(values)).float()).double().mean()), digits)

    names = list(dict.fromkeys(name for loss in losses for name in loss.terms))
    return {
        "loss": mean((x.total for x in losses), 5),
        "bpp": mean((x.bpp for x in losses), 4),
        "psnr": mean((x.psnr() for x in losses), 3),
        **{name: mean((x.terms[name] for x in losses if name in x.terms), 6) for name in names},
    }

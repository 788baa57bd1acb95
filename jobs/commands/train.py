"""`photoark train`: make a DiT-IC from photos, going on from the checkpoint in the output folder if there is one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.import_weights import open_accepted
from jobs.options import RayAddress
from pipeline.errors import PhotoarkError, SettingError

if TYPE_CHECKING:
    from pipeline.codecs.ditic.config import DiTICConfig
    from pipeline.codecs.ditic.model import DiTIC
    from pipeline.training.config import LossWeights, TrainConfig


def train(
    sources: Annotated[list[Path], typer.Argument(help="Image tars, folders of photos, or single photos.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and the log; a run there is resumed.")],
    steps: Annotated[int, typer.Option(help="Steps in all, those already made counted in.")] = 10_000,
    size: Annotated[str, typer.Option(help="small, the shipped model; tiny, for a trial; full.")] = "small",
    base: Annotated[
        str | None, typer.Option(help="Train adapters beside these weights: FILE, DIR, or hf:OWNER/NAME@REV; for --size full.")
    ] = None,
    base_file: Annotated[str | None, typer.Option(help="Which file of --base, if it holds several.")] = None,
    elic: Annotated[str | None, typer.Option(help="ELIC's weights, where --base is in diffusers' layout.")] = None,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Of the weights of --base and --elic.")] = False,
    batch_size: Annotated[int, typer.Option(help="Crops a step.")] = 16,
    crop_size: Annotated[int, typer.Option(help="Pixels a side of a crop.")] = 192,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate; 6e-4, of adapters 1e-4.")] = None,
    rate_weights: Annotated[
        str | None, typer.Option(help="Weight of bits per pixel against the distortion, of each quality: 0.2,0.05,...")
    ] = None,
    pruned_rate_weights: Annotated[
        str | None, typer.Option(help="Rate weights of the second stage, from --pruning-step on.")
    ] = None,
    pruning_step: Annotated[int | None, typer.Option(help="First step of the second stage.")] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=WEIGHT, several times: mse=1, ms-ssim=0.08; off unless given: perceptual, lpips, dists, distillation, "
            "guidance, adversarial; auxiliary=0 leaves the quantiles of z where they are."
        ),
    ] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="File of LPIPS, for --loss lpips=...")] = None,
    dists_weights: Annotated[Path | None, typer.Option(help="File of DISTS, for --loss dists=...")] = None,
    pseudo_timestep: Annotated[
        bool, typer.Option("--pseudo-timestep", help="A timestep for each position, as in the paper, and not one and a gain.")
    ] = False,
    synthetic_share: Annotated[
        float, typer.Option(help="Of the crops, those that are drawn: flat colours, patterns, text.")
    ] = 0.1,
    cooldown: Annotated[float, typer.Option(help="Last part of the steps, over which the learning rate falls.")] = 0.3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Train on so many workers through Ray, a GPU each; without it, in this process."),
    ] = None,
    ray_address: RayAddress = None,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 250,
    log_every: Annotated[int, typer.Option(help="Steps between two lines of the log.")] = 50,
    sample_every: Annotated[int, typer.Option(help="Steps between two sheets of sample reconstructions; 0: none.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of weights, crops and noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Train a DiT-IC; resumes by itself."""
    from jobs.settings import load_settings
    from pipeline.codecs.ditic.config import DiTICConfig
    from pipeline.codecs.neural.device import choose_device
    from pipeline.training.config import AdapterRanks, TrainConfig
    from pipeline.training.loop import train as run

    sizes = {"small": DiTICConfig.small, "tiny": DiTICConfig.tiny, "full": DiTICConfig.full}
    if size not in sizes:
        raise SettingError(f"--size {size}: choose one of {', '.join(sizes)}")
    if not as_json:
        logging.basicConfig(level=logging.INFO, format="%(message)s")

    def show(line: dict[str, Any]) -> None:
        text = json.dumps(line) if as_json else "  ".join(f"{name} {value:.5g}" for name, value in line.items())
        typer.echo(text)

    with_adapters = size == "full" or base is not None
    config = TrainConfig(
        sources=tuple(sources),
        out=out,
        num_steps=steps,
        batch_size=batch_size,
        crop_size=crop_size,
        learning_rate=learning_rate or (1e-4 if with_adapters else 6e-4),
        adapters=AdapterRanks() if with_adapters else None,
        rate_weights=None if rate_weights is None else _numbers(rate_weights),
        pruned_rate_weights=None if pruned_rate_weights is None else _numbers(pruned_rate_weights),
        pruning_step=pruning_step,
        loss=_loss_weights(loss or []),
        lpips_file=lpips_weights,
        dists_file=dists_weights,
        synthetic_share=synthetic_share,
        cooldown_share=cooldown,
        device=device if num_workers else choose_device(device),
        save_every=save_every,
        log_every=log_every,
        sample_every=sample_every,
        seed=seed,
    )
    model_config = sizes[size]()
    if pseudo_timestep and with_adapters:
        raise SettingError("--pseudo-timestep is for a model trained from nothing: published weights do not have it")
    if pseudo_timestep:
        model_config = replace(model_config, transformer=replace(model_config.transformer, pseudo_timestep=True))

    def load() -> DiTIC:
        from pipeline.training.lora import load_base

        return load_base(opened["base"], model_config, file=base_file, elic=opened.get("elic"))

    opened = open_accepted({"base": base, "elic": elic}, accepted=accept_licence, err=as_json) if base else {}
    base_of = load if opened else None
    if num_workers is None:
        path = run(config, model_config, show, base=base_of)
    else:
        address = load_settings(ray_address=ray_address).ray_address
        path = _run_on_workers(config, model_config, show, base_of, num_workers=num_workers, ray_address=address)
    typer.echo(json.dumps({"checkpoint": str(path)}) if as_json else f"checkpoint: {path}; next: photoark freeze {path}")


def _run_on_workers(
    config: TrainConfig,
    model_config: DiTICConfig,
    show: Callable[[dict[str, Any]], None],
    base: Callable[[], DiTIC] | None,
    *,
    num_workers: int,
    ray_address: str | None,
) -> Path:
    """Ray Train starts the workers, Ray Data makes their crops; the lines of the log come back here."""
    from cluster.connect import connected
    from cluster.train import Worker, WorkersFailed, run_workers, stream
    from pipeline.training.checkpoint import CHECKPOINT_NAME
    from pipeline.training.loop import check, train_as_worker
    from pipeline.training.parallel import Team
    from pipeline.training.streaming import index_photos

    check(config, model_config, num_workers=num_workers)
    # The workers have working folders of their own.
    config = replace(config, out=config.out.resolve())
    config.out.mkdir(parents=True, exist_ok=True)
    with connected(ray_address):
        index = index_photos(config.sources, min_side=config.crop_size, stream=stream)

        def work(worker: Worker, report: Callable[[dict[str, Any]], None]) -> None:
            train_as_worker(
                replace(config, device=worker.device),
                model_config,
                report,
                base=base,
                index=index,
                stream=worker.stream,
                team=Team(rank=worker.rank, size=worker.size),
            )

        try:
            run_workers(work, num_workers=num_workers, device=config.device, folder=config.out, on_report=show)
        except WorkersFailed as error:
            for failure in error.failures:
                if isinstance(failure, PhotoarkError):
                    raise failure from None
            raise PhotoarkError(
                f"training failed on its workers: {error}. Run the same command again; it goes on from the last checkpoint"
            ) from error
    return config.out / CHECKPOINT_NAME


def _loss_weights(given: list[str]) -> LossWeights:
    from pipeline.training.config import LossWeights

    names = {each.name.replace("_", "-"): each.name for each in fields(LossWeights)}
    chosen = {}
    for text in given:
        name, _, weight = text.partition("=")
        try:
            chosen[names[name]] = float(weight)
        except (KeyError, ValueError):
            raise SettingError(f"--loss {text}: give NAME=WEIGHT, NAME one of {', '.join(names)}") from None
    return LossWeights(**chosen)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--rate-weights {text}: give numbers with commas between, such as 0.2,0.05") from None
    if min(numbers) <= 0:
        raise SettingError(f"--rate-weights {text}: each must be above 0")
    return numbers

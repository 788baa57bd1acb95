"""Two workers make the step that one process makes; through Ray, one that is killed changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import SettingError, UnreadablePhotoError
from pipeline.training.checkpoint import CHECKPOINT_NAME
from pipeline.training.config import LossWeights, TrainConfig
from pipeline.training.crops import CropPlan, CropSource
from pipeline.training.data import load_with_texts
from pipeline.training.loop import check, train_as_worker
from pipeline.training.parallel import ALONE, Team
from pipeline.training.record import LOG_NAME
from pipeline.training.run import Run
from pipeline.training.streaming import Item, index_photos, streamed

NUM_STEPS = 8
_ARGUMENTS = [
    "--size", "tiny", "--steps", str(NUM_STEPS), "--batch-size", "4", "--crop-size", "128", "--loss", "ms-ssim=0",
    "--save-every", "2", "--log-every", "1", "--sample-every", "4",
]  # fmt: skip


def plainly(indices: range, make: Callable[[int], Item]) -> Iterator[Item]:
    return map(make, indices)


def settings(folder: Path, out: Path, **changes: Any) -> TrainConfig:
    """As `_ARGUMENTS` say."""
    options: dict[str, Any] = {"loss": LossWeights(ms_ssim=0), "save_every": 2, "log_every": 1, "sample_every": 4}
    return TrainConfig(
        sources=(folder,), out=out, num_steps=NUM_STEPS, batch_size=4, crop_size=128, device="cpu", **{**options, **changes}
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crops of a real photo, a file that is none, and one that is too small."""
    folder = tmp_path_factory.mktemp("photos")
    photo = Image.open(sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))[0]).convert("RGB")
    for i in range(3):
        photo.crop((40 * i, 0, 40 * i + 160 + 8 * i, 140)).save(folder / f"{i}.png")
    photo.crop((0, 0, 100, 300)).save(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes without Ray leave: gradients of one step, and the checkpoint of a whole run."""
    out = tmp_path_factory.mktemp("pair")
    code = f"from tests.pipeline.training.test_parallel import as_worker; as_worker({str(folder)!r}, {str(out)!r}, int('%d'))"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, "-c", code % rank], env=environment) for rank in range(2)]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    return out


def as_worker(folder: str, out: str, rank: int) -> None:
    """One process of `pair`."""
    source, target = Path(folder), Path(out)
    dist.init_process_group("gloo", init_method=f"file://{target}/meeting", rank=rank, world_size=2)
    team = Team(rank=rank, size=2)
    index = index_photos((source,), min_side=128, stream=plainly)
    config = settings(source, target / "whole")
    train_as_worker(config, DiTICConfig.tiny(), index=index, stream=plainly, team=team)
    state = one_step(source, target, team)
    torch.save(state, target / f"step-{rank}.pt")
    dist.barrier()  # one that leaves early takes its connections along
    dist.destroy_process_group()


def one_step(folder: Path, out: Path, team: Team) -> dict[str, Any]:
    """Gradients, clipped, and parameters after one step of an untrained model in float32, without noise, which each draws."""
    config = settings(folder, out / f"one-of-{team.size}", bf16=False, loss=LossWeights(ms_ssim=0, distillation=0.05))
    index = index_photos(config.sources, min_side=128, stream=plainly)
    plan = CropPlan(sizes=index.sizes, num_crops=4, size=128, synthetic_share=0.1, seed=0)
    (crops,) = streamed(index, plan, range(1), share=team.share(4), stream=plainly)
    run = Run(config, DiTICConfig.tiny(), None, None, team)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", lambda tensor, *_: tensor.zero_())
        run.update(crops)
    trained = dict(run.model.named_parameters())
    return {
        "gradients": {name: p.grad for name, p in trained.items() if p.grad is not None and not name.endswith("quantiles")},
        "updates": {name: (p - before[name]).detach() for name, p in trained.items()},
    }


def test_halves_of_a_batch_on_two_workers_make_the_step_of_the_whole(folder: Path, pair: Path, tmp_path: Path) -> None:
    whole = one_step(folder, tmp_path, ALONE)
    first, second = (torch.load(pair / f"step-{rank}.pt") for rank in range(2))
    # Muon works in bfloat16, and the first step of AdamW divides each gradient by itself: both make much of little.
    for part, most in (("gradients", 1e-5), ("updates", 1e-3)):
        assert whole[part].keys() == first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
        ours, theirs = (torch.cat([state[part][name].flatten() for name in whole[part]]) for state in (whole, first))
        assert 0 < float((ours - theirs).norm()) < most * float(ours.norm())


def test_streamed_crops_are_those_of_a_process_that_holds_the_photos(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = load_with_texts([folder], min_side=128)
    source = CropSource(photos.pixels, device="cpu")
    caplog.set_level("INFO", "pipeline.training.streaming")
    index = index_photos([folder], min_side=128, stream=plainly)
    assert "b.jpg left out" in caplog.text
    assert len(index.files) == 3 and np.array_equal(index.sizes, source.sizes)
    plan = CropPlan(sizes=source.sizes, num_crops=4, size=128, synthetic_share=0.3, seed=3)
    shares = [list(streamed(index, plan, range(5, 9), share=Team(rank=i, size=2).share(4), stream=plainly)) for i in range(2)]
    for step, halves in zip(range(5, 9), zip(*shares, strict=True), strict=True):
        held = source.cut(plan.of_step(step), 128)
        assert torch.equal(torch.cat([half.pixels for half in halves]), held.pixels)
        assert [photo for half in halves for photo in half.photos] == held.photos


def test_a_photo_that_changes_under_way_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((folder / "0.png").read_bytes())
    index = index_photos([tmp_path], min_side=128, stream=plainly)
    (tmp_path / "a.png").write_bytes((folder / "1.png").read_bytes())
    with pytest.raises(UnreadablePhotoError, match=r"a\.png: the file has changed"):
        index.pixels(0)


def test_a_batch_that_does_not_go_evenly_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="4 crops a step do not go evenly to 3 workers"):
        check(settings(folder, tmp_path), DiTICConfig.tiny(), num_workers=3)


@pytest.mark.chaos
@pytest.mark.slow
def test_ray_starts_anew_from_the_checkpoint_when_a_worker_is_killed(folder: Path, pair: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "train", str(folder), "--out", str(tmp_path), *_ARGUMENTS]
    with subprocess.Popen([*command, "--num-workers", "2", "--json"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert any(json.loads(line).get("step") == 3 for line in driver.stdout)
        started = psutil.Process(driver.pid).children(recursive=True)
        victim = next(process for process in started if "RayTrainWorker" in " ".join(process.cmdline()))
        victim.send_signal(signal.SIGKILL)
        lines = [json.loads(line) for line in driver.stdout]
    assert driver.returncode == 0
    assert lines[-1] == {"checkpoint": str(tmp_path / CHECKPOINT_NAME)}
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert set(steps) == set(range(1, NUM_STEPS + 1))
    assert steps != sorted(set(steps)), "the worker died too late to be missed"
    # Streamed by Ray Data, killed and started anew: the same run as two processes that nobody disturbed.
    found, expected = (torch.load(path / CHECKPOINT_NAME) for path in (tmp_path, pair / "whole"))
    assert found["step"] == NUM_STEPS
    for part in ("model", "ema"):
        assert all(torch.equal(found[part][name], expected[part][name]) for name in expected[part])
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-000004.png", "step-000008.png"}

"""FID with random weights of the true architecture, which no download is needed for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions
from pipeline.errors import CheckpointError, SettingError
from pipeline.evaluation.run import Evaluation, evaluate
from pipeline.progress import Progress
from pipeline.quality import fid
from pipeline.quality.fid import Inception, num_patches
from pipeline.quality.rate_distortion import FID
from pipeline.quality.scorer import Scorer

POINTS = [CodecAt(codec="jpeg", quality=2), CodecAt(codec="jpeg", quality=60)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torch-fidelity publishes them: names and shapes are asked of an Inception that could not load an empty file."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="no state dict of FID's Inception"):
        Inception(path)
    torch.save(random_state(), path)
    return path


def random_state() -> dict[str, torch.Tensor]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        network = FeatureExtractorInceptionV3("random", ["2048"])
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return network.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    with Image.open(io.BytesIO(photo_files["bridge.jpg"])) as image:
        image.crop((300, 100, 812, 612)).save(folder / "five.png")
        image.crop((0, 0, 256, 300)).save(folder / "one.png")
        image.crop((0, 0, 200, 300)).save(folder / "none.png")
    return folder


@pytest.fixture(scope="module")
def result(folder: Path, weights: Path) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid, "MIN_PATCHES", 6)
        points = [CodecAt(codec="original", quality=None), *POINTS]
        return evaluate(str(folder), points, Scorer(fid_weights=weights), options=CodecOptions())


def test_patches_are_side_by_side_and_once_more_shifted() -> None:
    assert [num_patches(*size) for size in ((512, 512), (256, 300), (255, 900), (768, 512), (767, 511))] == [5, 1, 0, 8, 2]


def test_it_is_nothing_for_equal_sets_and_grows_with_the_distortion(result: Evaluation) -> None:
    assert result.num_patches == 6
    equal, coarse, fine = (mean.scores["fid"] for mean in result.means())
    assert equal is not None and fine is not None and coarse is not None
    assert equal < 1e-3 * fine < 1e-3 * coarse / 2


def test_it_is_a_score_of_the_set(result: Evaluation) -> None:
    assert FID in result.metrics
    assert all("fid" not in measured.scores for measured in result.measured)
    assert len(result.curve("jpeg", FID)) == 2


def test_too_few_patches_are_told_before_anything_is_started(folder: Path, weights: Path) -> None:
    with pytest.raises(SettingError, match=r"at least 2,049 patches of 256 x 256 pixels, and these 3 photos have 6"):
        evaluate(str(folder), POINTS, Scorer(fid_weights=weights), options=CodecOptions(), on_progress=_begun)


def _begun(progress: Progress) -> None:
    pytest.fail(f"{progress.num_done} photos were begun")


def test_a_file_that_could_run_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"fc.weight": np.random.default_rng}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="no state dict of FID's Inception"):
        Inception(tmp_path / "code.pth")

"""From files as they are published, or from a Hub server, to a codec that runs; and what the frozen file tells of them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.exact import cdf_tables
from pipeline.codecs.ditic.release import ReleaseCodec
from pipeline.codecs.ditic.state_dict_adapter import from_merged
from pipeline.codecs.registry import CodecOptions, check_codec, decoder_for, get_codec
from pipeline.errors import CheckpointError, SettingError, StorageError, UnknownModelError
from pipeline.pixels.formats.reader import read_pixels
from pipeline.progress import Step
from pipeline.training.import_weights import import_weights
from pipeline.training.weight_source import open_source
from tests.pipeline.codecs.ditic.reference import TINY, Reference
from tests.pipeline.codecs.ditic.released import CONFIG, LoraRelease, merged_state
from tests.support.command_line import photoark

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def photos(photo_files: dict[str, bytes]) -> list[NDArray[np.uint8]]:
    return [read_pixels(photo_files[name])[:600, :700] for name in ("wine.jpg", "sunset.png")]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A merged checkpoint whose tables are not those that anyone would compute from its weights."""
    state = merged_state()
    cdf, lengths = (state[f"codec.gaussian_conditional.{name}"] for name in ("_quantized_cdf", "_cdf_length"))
    for row in range(10, 30):
        cdf[row, lengths[row] // 2] += 1
    return state


@pytest.fixture(scope="module")
def released(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    torch.save(state, folder / "q1_merge_ema.pt")
    (folder / "README.md").write_text("# A model\n")
    return folder


@pytest.fixture(scope="module")
def imported(released: Path, photos: list[NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imported") / "new" / "ditic.safetensors"
    import_weights(open_source(str(released)), path, photos, config=CONFIG)
    return path


def test_a_merged_checkpoint_becomes_a_codec(imported: Path, released: Path, photos: list[NDArray[np.uint8]]) -> None:
    codec = DiTICCodec.load(imported)
    assert [d.shape for d in codec.decode(codec.encode(photos))] == [p.shape for p in photos]
    # Calibration maps the release's file and changes the weights in memory: the file stays what it was.
    assert open_source(str(released)).checkpoint() == released / "q1_merge_ema.pt"
    loaded = checkpoint.load(imported)
    assert loaded.training["provenance"] == {
        "source": {
            "location": str(released),
            "revision": None,
            "files": [
                {
                    "name": "q1_merge_ema.pt",
                    "num_bytes": (released / "q1_merge_ema.pt").stat().st_size,
                    "sha256": sha256(released / "q1_merge_ema.pt"),
                }
            ],
        },
        "layout": "merged",
        "weights": "merged",
        "cdf_tables": "carried",
    }


def test_tables_and_float_entropy_path_are_those_of_the_checkpoint(imported: Path, state: dict[str, torch.Tensor]) -> None:
    carried = cdf_tables(from_merged(state, CONFIG).model.codec)
    tables = checkpoint.load(imported).entropy.tables
    assert np.array_equal(tables.cdfs, carried.cdfs)
    assert np.array_equal(tables.offsets, carried.offsets)
    model, _ = checkpoint.load_float(imported)
    ours = model.state_dict()
    for name, value in state.items():
        if name.startswith(checkpoint.ENTROPY_PREFIXES):
            assert torch.equal(ours[name], value), name
        elif not name.startswith("loss."):
            assert torch.allclose(ours[name], value, rtol=1e-3, atol=1e-6), name


def test_in_float32_nothing_is_lost_and_every_step_is_reported(
    released: Path, state: dict[str, torch.Tensor], photos: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    target, steps = tmp_path / "ditic.safetensors", list[Step]()
    source = open_source(str(released))
    report = import_weights(source, target, photos[:1], float32=True, config=CONFIG, on_step=steps.append)
    assert list(dict.fromkeys(step.stage for step in steps)) == [
        "hashing the source", "calibrating", "writing", "measuring the rate",
    ]  # fmt: skip
    last = {step.stage: step for step in steps}
    assert all(step.num_done == step.num_total for step in last.values())
    assert [path.name for path in tmp_path.iterdir()] == ["ditic.safetensors"]
    assert checkpoint.check(target) == report.frozen.fingerprint
    held = {name: value for name, value in state.items() if not name.startswith("loss.")}
    model, _ = checkpoint.load_float(target)
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    # So its streams and pictures are the release's.
    photo = np.ascontiguousarray(photos[0][:300, :310])
    release, codec = Reference(TINY, held), ReleaseCodec.load(target)
    body = release.encode(photo).body
    assert codec.encode_body(photo) == body
    pixels = codec.decode_body(body, width=310, height=300)
    assert np.abs(pixels.astype(int) - release.decode(body, 300, 310)).max() <= 1


def test_streams_of_the_release_are_read_with_imported_weights(imported: Path, photos: list[NDArray[np.uint8]]) -> None:
    codec = ReleaseCodec.load(imported)
    assert [d.shape for d in codec.decode(codec.encode(photos))] == [p.shape for p in photos]


def test_the_registry_takes_imported_weights(imported: Path, photos: list[NDArray[np.uint8]]) -> None:
    options = CodecOptions(weights=imported, device="cpu")
    check_codec("ditic", options)
    codec = get_codec("ditic", options)
    assert codec.info.name == "ditic"
    streams = codec.encode(photos[:1])
    assert np.array_equal(decoder_for("ditic", codec.info.model, options).decode(streams)[0], codec.decode(streams)[0])
    # One file is named for an archive of several codecs.
    assert decoder_for("ditic-small", None, options).info.name == "ditic-small"
    with pytest.raises(SettingError, match="weights of ditic, not of ditic-small"):
        get_codec("ditic-small", options)
    for get in (get_codec, check_codec):
        with pytest.raises(SettingError, match=r"needs --weights FILE.*import-weights"):
            get("ditic")
    with pytest.raises(UnknownModelError, match="--weights"):
        decoder_for("ditic", codec.info.model)


def test_a_lora_checkpoint_is_imported_with_its_base(photos: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    release = LoraRelease(peft_names=True, adapter_name=True, base_layers=False)
    torch.save({"model": release.weights, "ema": {}, "step": 1}, tmp_path / "lora.pt")
    base = release.write_base(tmp_path / "base")
    save_file({f"g_a.{name}": value for name, value in release.elic.items()}, tmp_path / "elic.safetensors")
    before = sha256(base / "vae" / "model.safetensors")
    sources = [open_source(str(tmp_path / name)) for name in ("lora.pt", "base", "elic.safetensors")]
    target = tmp_path / "out.safetensors"
    report = import_weights(sources[0], target, photos, base=sources[1], elic=sources[2], config=CONFIG)
    # Adapters are merged in memory; the base's file stays what it was.
    assert sha256(base / "vae" / "model.safetensors") == before
    provenance = report.provenance
    assert provenance == checkpoint.load(target).training["provenance"]
    assert (provenance["layout"], provenance["weights"]) == ("lora", "model")
    assert provenance["cdf_tables"] == "computed at import"
    assert [f["name"] for f in provenance["base"]["files"]] == ["model.safetensors", "model.safetensors"]
    assert provenance["elic"]["files"][0]["sha256"] == sha256(tmp_path / "elic.safetensors")
    merged = checkpoint.load(target).model.state_dict()
    for name in ("vae.decoder.conv_in.weight", "DiT.proj_out.weight"):
        assert torch.allclose(merged[name], release.merged[name], rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="name it with --base and --elic"):
        import_weights(sources[0], tmp_path / "none.safetensors", photos, config=CONFIG)
    assert not (tmp_path / "none.safetensors").exists()


def test_a_source_must_hold_what_it_should(released: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such file or folder"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(SettingError, match="no file of weights"):
        open_source(str(tmp_path)).checkpoint()
    with pytest.raises(SettingError, match="no vae/"):
        open_source(str(released)).component("vae")
    for name in ("q1.pt", "q2.pt"):
        (tmp_path / name).touch()
    with pytest.raises(SettingError, match=r"--file: q1\.pt, q2\.pt"):
        open_source(str(tmp_path)).checkpoint()
    assert open_source(str(tmp_path)).checkpoint("q2.pt") == tmp_path / "q2.pt"
    merged = open_source(str(released))
    with pytest.raises(SettingError, match="neither --base nor --elic"):
        import_weights(merged, tmp_path / "x.safetensors", [], base=merged, config=CONFIG)
    with pytest.raises(SettingError, match="no --use-ema weights"):
        import_weights(merged, tmp_path / "x.safetensors", [], use_ema=True, config=CONFIG)


def test_weights_that_float16_cannot_hold_are_refused(
    state: dict[str, torch.Tensor], photos: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    torch.save({**state, "vae.encoder.conv_in.bias": torch.full((8,), 1e6)}, tmp_path / "large.pt")
    with pytest.raises(CheckpointError, match=r"vae\.encoder\.conv_in\.bias .* float16 cannot hold; import with --float32"):
        import_weights(open_source(str(tmp_path)), tmp_path / "out.safetensors", photos, config=CONFIG)


@dataclass
class Hub:
    """A server that answers as the Hugging Face Hub does, for one repository at one commit."""

    files: dict[str, bytes]
    url: str = ""
    fetched: list[str] = field(default_factory=list)


class HubHandler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path in (f"/api/models/lab/codec/revision/{name}" for name in ("v1", COMMIT)):
            siblings = [{"rfilename": name} for name in self.hub.files]
            body = json.dumps({"_id": "1", "id": "lab/codec", "sha": COMMIT, "siblings": siblings}).encode()
            headers = {"Content-Type": "application/json"}
        elif path == f"/api/models/lab/codec/tree/{COMMIT}":
            tree = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in self.hub.files.items()]
            body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
        elif path.startswith(resolve := f"/lab/codec/resolve/{COMMIT}/") and path.removeprefix(resolve) in self.hub.files:
            name = path.removeprefix(resolve)
            body = self.hub.files[name]
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if with_body:
                self.hub.fetched.append(name)
        else:
            body, headers = b"", {"X-Error-Code": "RepoNotFound" if path.startswith("/api") else "EntryNotFound"}
        self.send_response(404 if "X-Error-Code" in headers else 200)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    checkpoint_bytes = (released / "q1_merge_ema.pt").read_bytes()
    hub = Hub(files={"README.md": b"# No terms", "q1_merge_ema.pt": checkpoint_bytes, "other/large.bin": b"never fetched"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(HubHandler, hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    # What HF_ENDPOINT and HF_HUB_CACHE set; huggingface_hub reads them when it is imported, which it may be already.
    files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_is_imported_at_the_commit_that_the_revision_names(
    hub: Hub, photos: list[NDArray[np.uint8]], tmp_path: Path, released: Path
) -> None:
    source = open_source("hf:lab/codec@v1")
    assert source.revision == COMMIT
    assert hub.fetched == []
    assert [(t.name, t.text, t.is_licence) for t in source.terms()] == [("README.md", "# No terms", False)]
    # Before the terms are accepted, no weights are fetched.
    assert hub.fetched == ["README.md"]
    import_weights(source, tmp_path / "ditic.safetensors", photos[:1], config=CONFIG)
    assert sorted(hub.fetched) == ["README.md", "q1_merge_ema.pt"]
    (described,) = [checkpoint.load(tmp_path / "ditic.safetensors").training["provenance"]["source"]]
    assert (described["location"], described["revision"]) == ("hf:lab/codec@v1", COMMIT)
    assert described["files"][0]["sha256"] == sha256(released / "q1_merge_ema.pt")


def test_the_command_shows_the_terms_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    result = photoark(
        "import-weights", f"hf:lab/codec@{COMMIT}", "-o", tmp_path / "x.safetensors",
        HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path),
    )  # fmt: skip
    assert result.returncode == 2
    assert "# No terms" in result.stdout
    assert "no licence comes with these weights" in result.stdout
    assert hub.fetched == ["README.md"]


def test_a_repository_needs_a_revision_and_must_be_there(hub: Hub) -> None:
    for location in ("hf:lab/codec", "hf:lab/codec@"):
        with pytest.raises(SettingError, match="names no revision"):
            open_source(location)
    with pytest.raises(SettingError, match="hf:OWNER/NAME@REVISION"):
        open_source("hf:codec@v1")
    with pytest.raises(StorageError, match="hf:lab/absent@v1 cannot be fetched"):
        open_source("hf:lab/absent@v1")

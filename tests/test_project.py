"""What holds of the project as a whole: who imports whom, what a light command loads, what the package ships."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

import pytest
from packaging.requirements import Requirement

from pipeline.archive.writer import ArchiveWriter
from pipeline.entropy.container import unpack
from pipeline.records import EncodedPhoto, Outcome
from pipeline.sources.folder import list_source

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Fork = Callable[[list[str]], tuple[int, set[str], str]]
HEAVY = {"torch", "ray", "numba", "diffusers", "transformers", "compressai"}


def test_import_rules_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_broken_import_rule_is_seen(tmp_path: Path) -> None:
    for package in ("pipeline", "jobs", "cluster"):
        for module in (ROOT / package).rglob("*.py"):
            copy = tmp_path / module.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(module.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / "pipeline" / "sources" / "wrong.py").write_text("import torch\n")
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", "--contract", "torch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "pipeline.sources.wrong" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["restore", "--help"], ["serve", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert not _modules_loaded_by(arguments) & (HEAVY | {"numpy", "pandas", "pyarrow", "deltalake", "boto3", "fastapi"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of one file, all of which is in `archive`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"bytes of a photo")
    return folder


@pytest.fixture
def archive(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    data = (source / "a.jpg").read_bytes()
    (photo,) = list_source(str(source)).photos
    row = EncodedPhoto(
        key=photo.key, image=data, codec="original", model=None, outcome=Outcome.KEPT, source_uri=photo.uri,
        source_bytes=photo.size_bytes, source_sha256=hashlib.sha256(data).hexdigest(), modified_at=photo.modified_at,
    )  # fmt: skip
    ArchiveWriter.open_or_create(str(path)).commit([row])
    return path


@pytest.mark.parametrize(
    "command",
    [
        "ls ARCHIVE",
        "stat ARCHIVE",
        "verify ARCHIVE",
        "verify ARCHIVE --against SOURCE --checksum",
        "encode SOURCE ARCHIVE",
        "encode SOURCE ARCHIVE --dry-run",
        "retry SOURCE ARCHIVE",
        "restore ARCHIVE a.jpg -o COPY",
        "decode ARCHIVE TMP --resume --include a.*",
    ],
)
def test_what_needs_no_codec_loads_neither_torch_nor_ray(
    command: str, source: Path, archive: Path, tmp_path: Path, fork: Fork
) -> None:
    copy = tmp_path / "restored" / "a.jpg"
    copy.parent.mkdir()
    shutil.copy2(source / "a.jpg", copy)
    places = {"SOURCE": str(source), "ARCHIVE": str(archive), "TMP": str(copy.parent), "COPY": str(tmp_path / "copy.jpg")}
    code, modules, said = fork([places.get(word, word) for word in command.split()])
    assert (code, modules & (HEAVY | {"pandas"})) == (0, set()), said


def test_an_actor_of_a_codec_without_networks_loads_no_torch() -> None:
    program = """
import sys
from pipeline.codecs.points import CodecAt
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
EncodeWorker(EncodeSettings(ladder=(CodecAt("webp"),)))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_restoring_a_photo_loads_only_what_decodes(archive: Path, tmp_path: Path) -> None:
    stream = (ROOT / "tests" / "golden" / "ditic_small.stream").read_bytes()
    header, _ = unpack(stream)
    row = EncodedPhoto(
        key="neural.png", image=stream, codec=header.codec, model=header.model, outcome=Outcome.ENCODED, format="PNG",
        width=header.width, height=header.height, mode="RGB", orientation=1, source_uri="/neural.png", source_bytes=1,
    )  # fmt: skip
    ArchiveWriter.open(str(archive)).commit([row])
    modules = _modules_loaded_by(["restore", str(archive), "neural.png", "-o", str(tmp_path / "neural.png")])
    assert "torch" in modules
    # torch's compiler, and packages of whose layers only training and importing weights have need.
    slow = {"torch._dynamo", "torch._inductor", "sympy", "torch_geometric", "torchvision", "peft", "pandas"}
    assert not modules & (HEAVY - {"torch", "numba"} | slow)


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("encode missing ARCHIVE", 2, "missing does not exist"),
        ("encode SOURCE new --codec wepb", 2, "no codec is called 'wepb'"),
        ("encode SOURCE new --quality 5", 2, "1 to 4"),
        ("encode SOURCE new --ladder webp:10..1", 2, "the range 10..1 is empty"),
        ("encode SOURCE new --gate psnr=much", 2, "'much' is no number"),
        ("encode SOURCE new --gate lpips=0.1", 2, "lpips needs weights"),
        ("encode SOURCE new --weights none.safetensors", 2, "--weights none.safetensors: no such file"),
        ("encode SOURCE broken", 1, "broken"),
        ("retry missing ARCHIVE", 2, "missing does not exist"),
        ("retry SOURCE missing", 2, "missing"),
        ("decode missing new", 2, "missing"),
        ("decode ARCHIVE new --format XYZ", 2, "--format XYZ"),
        ("decode ARCHIVE new --weights none.safetensors", 2, "--weights none.safetensors: no such file"),
        ("verify missing", 2, "missing"),
        ("verify ARCHIVE --against missing", 2, "missing does not exist"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_torch_or_ray_loads(
    command: str, code: int, message: str, source: Path, archive: Path, tmp_path: Path, fork: Fork
) -> None:
    (tmp_path / "broken" / "_delta_log").mkdir(parents=True)
    (tmp_path / "broken" / "_delta_log" / f"{0:020}.json").write_text("no log")
    places = {"SOURCE": str(source), "ARCHIVE": str(archive)}
    places |= {name: str(tmp_path / name) for name in ("missing", "new", "broken")}
    ended, modules, said = fork([places.get(word, word) for word in command.split()])
    assert (ended, modules & HEAVY) == (code, set()), said
    assert message in said
    assert not (tmp_path / "new").exists()


def test_lock_satisfies_the_project() -> None:
    locked: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pin = Requirement(line)
        assert not pin.extras, f"pip refuses extras in constraints: {line}"
        assert pin.url is None
        locked.setdefault(pin.name.lower().replace("_", "-"), []).append(next(iter(pin.specifier)).version)
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        versions = locked[wanted.name.lower().replace("_", "-")]
        assert all(wanted.specifier.contains(version) for version in versions), f"{line}: locked {versions}"


def test_installed_command_is_this_project() -> None:
    assert metadata.version("photoark") == PROJECT["version"]
    scripts = metadata.entry_points(group="console_scripts", name="photoark")
    assert {script.value for script in scripts} == {"jobs.cli:main"}


def _modules_loaded_by(arguments: list[str]) -> set[str]:
    """Modules in memory after the command line ran well in a process of its own."""
    program = f"""
import json, sys
sys.argv = ["photoark", *{arguments!r}]
from jobs.cli import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(json.dumps(sorted(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    """Run the command line in a fork of a process that has loaded what every command on archives loads, and no more.

    Gives the exit code, the modules in memory at the end, and what was said on standard error.
    """
    program = """
import json, os, sys
import deltalake, numpy, pyarrow.parquet
from jobs.cli import main

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    arguments, errors = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 0
        sys.argv = ["photoark", *arguments]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
        sys.stderr.flush()
        print(json.dumps([code, sorted(sys.modules)]), file=answers, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as server,
    ):
        assert server.stdin is not None and server.stdout is not None
        ask, answers, errors = server.stdin, server.stdout, Path(folder) / "errors"

        def run(arguments: list[str]) -> tuple[int, set[str], str]:
            errors.unlink(missing_ok=True)
            print(json.dumps([arguments, str(errors)]), file=ask, flush=True)
            code, modules = json.loads(answers.readline())
            return code, set(modules), errors.read_text()

        yield run
        ask.close()

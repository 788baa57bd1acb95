"""Where released weights come from, what they may be used for, and which bytes they are.

FILE               one file, and the licence texts of its folder
DIR                the files of a folder, and of the folders in it
hf:OWNER/NAME@REV  a repository of the Hugging Face Hub, at the commit that REV names now; only what is asked for is fetched
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SettingError, StorageError
from pipeline.progress import OnStep, Step, ignore_step

_HUB = "hf:"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
_TERMS = re.compile(r"(licen[cs]e|copying|notice|readme)\b.*", re.IGNORECASE)
_CHUNK_BYTES = 1 << 24
_VARIANT = re.compile(r"\.(fp16|bf16)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A text that travels with weights and may say what they may be used for."""

    name: str
    text: str

    @property
    def is_licence(self) -> bool:
        """Whether it grants or names a licence; a card need not."""
        return not self.name.lower().startswith("readme") or re.search(r"licen[cs]e", self.text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """A set of files, here or on the Hub."""

    location: str
    """As the user named it."""
    revision: str | None
    """Commit of a repository, 40 hex digits; None for local files."""
    names: tuple[str, ...]
    """Paths of its files, with `/`."""
    fetch: Callable[[Sequence[str]], list[Path]]
    """Names -> local paths, downloaded if need be."""

    def terms(self) -> list[Terms]:
        """The licence texts and cards."""
        names = [name for name in self.names if _TERMS.fullmatch(name.rpartition("/")[2])]
        return [Terms(name=n, text=p.read_text(errors="replace")) for n, p in zip(names, self.fetch(names), strict=True)]

    def checkpoint(self, name: str | None = None) -> Path:
        """The one file of weights at the top, or the one called `name`.

        Raises:
            SettingError: there is none, or there are several.
        """
        found = [n for n in self.names if n == name or (name is None and "/" not in n and n.endswith(_WEIGHTS))]
        if not found:
            raise SettingError(f"{self.location} holds no {'file of weights' if name is None else name}")
        if len(found) > 1:
            raise SettingError(f"{self.location} holds several files of weights; choose one with --file: {', '.join(found)}")
        return self.fetch(found)[0]

    def component(self, folder: str) -> list[Path]:
        """The safetensors files of a part of a diffusers pipeline; half-precision doubles of them are left out.

        Raises:
            SettingError: there are none.
        """
        found = [n for n in self.names if n.startswith(f"{folder}/") and n.endswith(".safetensors")]
        if not found:
            raise SettingError(f"{self.location} holds no {folder}/*.safetensors: the base must be in diffusers' layout")
        return self.fetch([n for n in found if not _VARIANT.search(n)] or found)


def open_source(location: str) -> WeightSource:
    """Look at a file, a folder or a repository; no weights are fetched.

    Raises:
        SettingError: it does not exist, or names no revision.
        StorageError: the repository cannot be reached.
    """
    if location.startswith(_HUB):
        return _open_repository(location)
    path = Path(location)
    if path.is_dir():
        files = [p for pattern in ("*", "*/*") for p in path.glob(pattern) if p.is_file()]
        return _local(location, path, [p.relative_to(path).as_posix() for p in files])
    if path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file() and _TERMS.fullmatch(p.name)]
        return _local(location, path.parent, [path.name, *beside])
    raise SettingError(f"{location}: no such file or folder; a repository is named hf:OWNER/NAME@REVISION")


def describe(location: str, revision: str | None, files: Sequence[Path], on_step: OnStep = ignore_step) -> dict[str, Any]:
    """What identifies weights: where they were found, and the SHA-256 of each file."""
    described = []
    num_done, num_total = 0, sum(path.stat().st_size for path in files)
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as handle:
            while chunk := handle.read(_CHUNK_BYTES):
                digest.update(chunk)
                num_done += len(chunk)
                on_step(Step(stage="hashing the source", num_done=num_done, num_total=num_total, unit="bytes"))
        described.append({"name": path.name, "num_bytes": path.stat().st_size, "sha256": digest.hexdigest()})
    return {"location": location, "revision": revision, "files": described}


def _local(location: str, folder: Path, names: Sequence[str]) -> WeightSource:
    return WeightSource(
        location=location,
        revision=None,
        names=tuple(sorted(set(names))),
        fetch=lambda chosen: [folder / name for name in chosen],
    )


def _open_repository(location: str) -> WeightSource:
    repository, _, revision = location.removeprefix(_HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SettingError(f"{location}: a repository is named hf:OWNER/NAME@REVISION")
    if not revision:
        raise SettingError(f"{location} names no revision: add @ and a commit, so that the same weights come again")

    from huggingface_hub import HfApi

    api = HfApi()

    def asked(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise StorageError(f"{location} cannot be fetched: {reason or type(error).__name__}") from error

    info = asked(lambda: api.model_info(repository, revision=revision))

    def fetch(names: Sequence[str]) -> list[Path]:
        if not names:
            return []
        patterns = [glob.escape(name) for name in names]
        folder = asked(lambda: api.snapshot_download(repository, revision=info.sha, allow_patterns=patterns))
        return [Path(folder) / name for name in names]

    names = tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))
    return WeightSource(location=location, revision=info.sha, names=names, fetch=fetch)

"""What holds for every source, whatever its names, folders, containers and metadata: all that is found is accounted for, what
encodes can be decoded, and nothing outside the destination is touched.

The sources are generated from a seed; `python -m tests.test_invariants 100` tries a hundred of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import parse_ladder
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.records import EncodedPhoto, Outcome
from tests.cases.tiny import kept

_SUFFIXES = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "HEIF": "heic",
    "AVIF": "avif",
    "GIF": "gif",
    "BMP": "bmp",
}
_STEMS = (
    "plain", "with space", "per%20cent", "%41", "hash#tag", "quest?ion", "umlaut-ü", "u\u0308 decomposed", "漢字" * 20,
    "emoji-📷", ".hidden", "...dots", "back\\slash", "new\nline", "quote'\"", "tab\t", "trailing ", "semi;colon", "star*[1]",
    "~tilde", "x" * 240, "漢" * 80, "_delta_log", "photos-1.parquet", "NUL", "a+b=c&d",
)  # fmt: skip
_FOLDERS = ("", "", "summer/", "summer/sea ü/", ".private/", "nile_delta_log/", "@eaDir/", "deep/er/and/deeper/", "%2e%2e/")
_XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/></x:xmpmeta>"


def photo(rng: random.Random) -> tuple[bytes, str]:
    """A file with the suffix that its name should bear: a photo in any container with any metadata, sound or damaged."""
    name = rng.choice(list(_SUFFIXES))
    width, height = rng.randint(1, 90), rng.randint(1, 90)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    pixels = np.kron(noise, np.ones((8, 8, 1), np.uint8))[:height, :width]
    image = Image.fromarray(pixels).convert(rng.choice(["RGB"] * 6 + ["L", "RGBA", "P", "CMYK", "I;16", "1"]))
    options: dict[str, object] = {}
    if rng.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([*range(10), 65535])
        exif[0x010E] = "a description " * rng.choice([1, 20, 6000])
        options["exif"] = rng.choice([exif.tobytes(), exif.tobytes()[: rng.randint(0, 60)], b"Exif\0\0" + rng.randbytes(40)])
    if rng.random() < 0.3:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        options["icc_profile"] = rng.choice([profile, profile[:100], rng.randbytes(30)])
    if rng.random() < 0.3:
        options["xmp"] = rng.choice([_XMP, _XMP[:40], rng.randbytes(30)])
    if rng.random() < 0.3:
        options["dpi"] = (rng.choice([72, 300, 600]),) * 2
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except Exception:  # not every container takes every mode and block
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, name)
    data = buffer.getvalue()
    damage = rng.random()
    if damage < 0.05:
        data = data[: rng.randint(0, len(data))]
    elif damage < 0.1:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(1) + data[at + 1 :]
    elif damage < 0.15:
        data += rng.choice([bytes(9), b"\xff" * 4, rng.randbytes(200), b"PK\x03\x04" + rng.randbytes(90)])
    return data, _SUFFIXES[name]


def file(rng: random.Random) -> tuple[bytes, str]:
    """A photo, or one time in six another file."""
    if rng.random() < 0.83:
        return photo(rng)
    suffix = rng.choice(["mp4", "txt", "pdf", "xmp", "json", "aae", "dng", "", "jpg", "DS_Store"])
    return rng.choice([b"", b"text\n", rng.randbytes(500)]), suffix


def name(rng: random.Random) -> str:
    """Some name, of which only the last bytes may have to go."""
    return rng.choice(_STEMS) if rng.random() < 0.6 else f"IMG_{rng.randrange(10_000)}"


def folder_of(rng: random.Random, root: Path) -> tuple[int, Counter[bytes]]:
    """Fill the folder `root`; return how many entries there are to account for, and the SHA-256 of those that are files.

    An entry is a file, a link, a pipe, or what else is no folder; of folders behind links, the files.
    """
    contents: dict[bytes, bytes] = {}

    def put(path: bytes, data: bytes) -> None:
        target = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as handle:
            handle.write(data)
        contents[path] = data

    for _ in range(rng.randint(25, 60)):
        data, suffix = file(rng)
        stem = name(rng).encode()[: 250 - len(suffix)]
        if rng.random() < 0.05:
            stem = stem[:100] + b"\xff\xfe"
        elif rng.random() < 0.05:
            stem = stem[:100] + rng.choice([b"\\xff", b"%FF", b"\\udcff"])
        path = (
            rng.choice(_FOLDERS).encode() + stem.decode("utf-8", "ignore").encode() + (f".{suffix}".encode() if suffix else b"")
        )
        if stem.endswith((b"\xff\xfe",)):
            path = rng.choice(_FOLDERS).encode() + stem
        put(path, data)
    num_others = 0
    os.mkfifo(root / "pipe")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "nowhere.jpg").symlink_to("gone.jpg")
    (root / "round").symlink_to(".", target_is_directory=True)
    num_others += 4
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "linked.png").write_bytes(photo(rng)[0])
    (root / "album").symlink_to(outside, target_is_directory=True)
    (root / "album again").symlink_to(outside, target_is_directory=True)
    contents[b"album/linked.png"] = (outside / "linked.png").read_bytes()
    num_others += 1
    late, early = root / "late.png", root / "early.png"
    for odd, at in ((late, 4_000_000_000), (early, -4_000_000_000)):
        put(os.fsencode(odd.name), photo(rng)[0])
        os.utime(odd, (at, at))
    ArchiveWriter.open_or_create(str(root / "inner archive")).commit([kept("a.png", b"a")])
    num_others += sum(len(names) for _, _, names in os.walk(root / "inner archive"))
    return len(contents) + num_others, Counter(hashlib.sha256(data).digest() for data in contents.values())


def tree(*roots: Path) -> dict[str, tuple[int, int, str]]:
    """Path -> time, size and SHA-256 of every file; links as links."""
    found = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            for entry in folders + names:
                path = os.path.join(folder, entry)
                status = os.lstat(path)
                is_file = os.path.isfile(path) and not os.path.islink(path)
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if is_file else ""
                found[path] = (status.st_mtime_ns, status.st_size, content)
    return found


def check(source: str, num_entries: int, contents: Counter[bytes], work: Path, untouched: Iterable[Path] = ()) -> None:
    """Encode and decode `source`, and assert what always holds."""
    archive, restored = work / "archive", work / "restored"
    before = tree(*untouched)
    summary = encode(EncodeJob(source=source, archive=str(archive), ladder=parse_ladder("webp:60,original")))
    assert tree(*untouched) == before, "encode touched the source"
    rows = list(read_rows(ArchiveWriter.open(str(archive)), columns=["source_sha256", "reason"]))
    num_skipped = sum(skipped.num_entries for skipped in summary.skipped)
    assert len(rows) == len({row.key for row in rows}) == summary.num_photos
    assert len(rows) + num_skipped == num_entries, summary.skipped
    stored = [row for row in rows if row.outcome is not Outcome.FAILED]
    failed = {row.key for row in rows} - {row.key for row in stored}
    assert all(row.reason for row in rows if row.key in failed)
    hashes = Counter(bytes.fromhex(row.source_sha256) for row in rows if row.source_sha256)
    assert hashes <= contents, "a row is of bytes that no file has"

    again = encode(EncodeJob(source=source, archive=str(archive), ladder=parse_ladder("webp:60,original")))
    assert (again.num_new, again.num_changed, again.num_skipped) == (0, 0, len(rows)), "the same files looked changed"

    kept_before = tree(*untouched, archive)
    decoded = decode(DecodeJob(archive=str(archive), destination=str(restored)))
    assert tree(*untouched, archive) == kept_before, "decode touched a file outside of its destination"
    assert {key for key, _ in decoded.failures} == failed, decoded.failures
    files = [path for path in restored.rglob("*") if path.is_file()]
    assert len(files) == len(stored) == decoded.num_restored
    _check_bytes(archive, [path.read_bytes() for path in files])


def _check_bytes(archive: Path, files: list[bytes]) -> None:
    """Every kept file comes back as it was; every encoded one as a picture of its size."""
    rows = list(read_rows(ArchiveWriter.open(str(archive)), columns=["source_sha256", "width", "height", "format"]))
    left = Counter(hashlib.sha256(data).hexdigest() for data in files)
    as_they_were = Counter(row.source_sha256 for row in rows if row.outcome is Outcome.KEPT)
    assert as_they_were <= left
    pictures = Counter(_size(data) for data in files)
    for row in rows:
        if row.outcome is Outcome.ENCODED:
            assert pictures[_displayed(row)] > 0, row.key


def _displayed(row: EncodedPhoto) -> frozenset[int]:
    return frozenset((row.width or 0, row.height or 0))


def _size(data: bytes) -> frozenset[int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that came back as damaged as it was
            with Image.open(io.BytesIO(data)) as image:
                return frozenset(image.size)
    except Exception:
        return frozenset()


def local_source(seed: int, work: Path) -> None:
    """Check one generated folder."""
    root = work / "source"
    root.mkdir(parents=True)
    num_entries, contents = folder_of(random.Random(seed), root)
    check(str(root), num_entries, contents, work, [root, work / "outside"])


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_folder_is_accounted_for_and_comes_back(seed: int, tmp_path: Path) -> None:
    local_source(seed, tmp_path)


@pytest.mark.s3
@pytest.mark.usefixtures("ray_session")
def test_a_bucket_is_accounted_for_and_comes_back(s3_url: str, tmp_path: Path) -> None:
    rng, client = random.Random(2), boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    objects = {key: file(rng)[0] for key in ("a//b.png", "a/b.png", "x", "x/y.png", "x//", "p%2Fq.jpg", "ü/ü.jpg", "a/b.png/c")}
    objects |= {"empty/": b"", ".hidden.png": photo(rng)[0], "@eaDir/thumb.jpg": photo(rng)[0]}
    for _ in range(20):
        data, suffix = file(rng)
        objects[f"{rng.choice(_FOLDERS)}{name(rng)}.{suffix}".replace("\n", "")] = data
    for key, data in objects.items():
        client.put_object(Bucket=s3_url.removeprefix("s3://"), Key=f"photos/{key}", Body=data)
    contents = Counter(hashlib.sha256(data).digest() for data in objects.values())
    check(f"{s3_url}/photos", len(objects), contents, tmp_path)
    bucket = s3_url.removeprefix("s3://")
    for key, data in objects.items():
        assert client.get_object(Bucket=bucket, Key=f"photos/{key}")["Body"].read() == data, "an object was touched"


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    from cluster.connect import connected

    with connected():
        for number in range(int(sys.argv[1])):
            with TemporaryDirectory() as folder:
                local_source(number, Path(folder))
            print(f"seed {number}: all accounted for", flush=True)

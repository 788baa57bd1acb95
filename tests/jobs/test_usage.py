"""What is asked wrongly ends in one line that says what to do, and nothing is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs.settings import load_settings
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveNotFoundError, PhotoarkError, SettingError
from pipeline.records import Outcome
from pipeline.storage.base import Storage
from tests.hostile.test_keys import kept
from tests.support.command_line import photoark

PHOTOARK = str(Path(sys.executable).with_name("photoark"))


def refused(*arguments: object) -> tuple[int, str]:
    """Exit code and message of a command that says nothing else."""
    result = subprocess.run([PHOTOARK, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.returncode, result.stderr.removeprefix("photoark: ").rstrip()


def test_a_table_of_another_program_is_no_archive_and_stays_as_it_is(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write_deltalake(str(table), pa.table({"a": [1, 2]}))
    before = {path: path.read_bytes() for path in table.rglob("*.*")}
    for open_it in (ArchiveWriter.open, ArchiveWriter.open_or_create):
        with pytest.raises(ArchiveNotFoundError, match="a Delta table of another program, with columns a;"):
            open_it(str(table))
    code, message = refused("verify", table)
    assert (code, "another program" in message) == (2, True)
    assert {path: path.read_bytes() for path in table.rglob("*.*")} == before
    assert DeltaTable(str(table)).version() == 0


def test_an_archive_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    code, message = refused("ls", tmp_path / "nothing")
    assert code == 2
    assert message == f"there is no archive at {tmp_path / 'nothing'}; make one with `photoark encode`"


def test_misspelt_settings_name_the_one_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "photoark.toml"
    file.write_text('qualty = 3\ncodec = "webp"\n')
    with pytest.raises(SettingError, match=r"photoark\.toml: there is no setting qualty; did you mean quality\?"):
        load_settings(file)
    file.write_text('colour = "blue"\n')
    with pytest.raises(SettingError, match=r"there is no setting colour; jobs/README\.md lists them"):
        load_settings(file)
    monkeypatch.setenv("PHOTOARK_SERVICE_HOST", "10.0.0.1")  # Kubernetes sets it for a service of this name
    load_settings()
    monkeypatch.setenv("PHOTOARK_MAX_GPU", "2")
    with pytest.raises(SettingError, match=r"PHOTOARK_MAX_GPU: there is no setting max_gpu; did you mean max_gpus\?"):
        load_settings()


@pytest.mark.s3
def test_errors_of_a_store_are_one_line_with_a_cure(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://no-such-bucket/archive"
    found = {}
    cases: dict[str, dict[str, str | None]] = {
        "bucket": {},
        "network": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "credentials": {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
    }
    for name, variables in cases.items():
        with monkeypatch.context() as patch:
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            for variable, value in variables.items():
                patch.delenv(variable) if value is None else patch.setenv(variable, value)
            with pytest.raises(PhotoarkError) as caught:
                ArchiveWriter.open(url)
        found[name] = caught.value.message
    again = "then try again"
    assert found == {
        "bucket": f"the archive at {url} cannot be opened: NoSuchBucket: The specified bucket does not exist; "
        f"check the bucket's name, or make the bucket, {again}",
        "network": f"the archive at {url} cannot be opened: Connection refused (os error 111); "
        f"the store cannot be reached: check the network and AWS_ENDPOINT_URL, {again}",
        "credentials": f"{url} cannot be opened: unable to locate credentials; "
        f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, {again}",
    }


_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret"}
_PROFILES = """
[profile half]
aws_access_key_id = a
[profile nobody]
role_arn = arn:aws:iam::1:role/x
source_profile = absent
[profile silent]
credential_process = /bin/false
"""


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "a"}, 2, "S3 is not set up: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nope"}, 2, "S3 is not set up: The config profile (nope) could not be found"),
        ({"AWS_PROFILE": "half"}, 2, "S3 is not set up: Partial credentials found in config-file"),
        ({"AWS_PROFILE": "nobody"}, 2, 'S3 is not set up: The source_profile "absent"'),
        ({"AWS_PROFILE": "silent"}, 1, "credentials for S3 cannot be fetched: "),
        ({**_KEYS, "AWS_CONFIG_FILE": "no.ini"}, 2, "S3 is not set up: Unable to parse config file: "),
        ({**_KEYS, "AWS_DEFAULTS_MODE": "odd"}, 2, "S3 is not set up: Client configured with invalid defaults mode: odd"),
        ({**_KEYS, "AWS_ENDPOINT_URL": "http://-odd-:9"}, 2, "S3 is not set up: Invalid endpoint"),
        (
            {**_KEYS, "AWS_ENDPOINT_URL_S3": "localhost"},
            2,
            "AWS_ENDPOINT_URL_S3 'localhost' is no URL of a store: give http://",
        ),
        *(
            ({**_KEYS, "AWS_ENDPOINT_URL": url}, 2, f"AWS_ENDPOINT_URL {url!r} is no URL of a store: give http://HOST:PORT")
            for url in ("127.0.0.1:18999", "http://", "https//h", "http://h:99999", "ftp://h", "http://[::1", "http://h h", "h")
        ),
    ],
)
def test_s3_that_is_set_up_wrongly_is_one_line(
    env: dict[str, str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "no.ini").write_text("garbage\n")
    (tmp_path / "config").write_text(_PROFILES)
    monkeypatch.chdir(tmp_path)
    files = {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "config", "AWS_EC2_METADATA_DISABLED": "true"}
    (tmp_path / "src").mkdir()
    for command in (
        ["ls", "s3://bucket/archive"],
        ["encode", "src", "s3://bucket/archive"],
        ["encode", "s3://bucket/src", "a"],
    ):
        result = photoark(*command, **files | env)
        last = result.stderr.splitlines()[-1]
        assert (result.returncode, last.removeprefix("photoark: ")[: len(said)]) == (code, said), command
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_wrong_usage(s3_url: str, tmp_path: Path) -> None:
    missing = "s3://no-such-bucket/x"
    (tmp_path / "src").mkdir()
    ArchiveWriter.open_or_create(str(tmp_path / "archive")).commit([kept("a.txt")])
    Storage(s3_url).write("photo.jpg", b"x")
    commands: list[list[object]] = [
        ["ls", missing], ["stat", missing], ["verify", missing], ["optimize", missing], ["restore", missing, "a.jpg"],
        ["encode", tmp_path / "src", missing], ["encode", tmp_path / "src", missing, "--dry-run"], ["salvage", missing, s3_url],
        ["encode", missing, tmp_path / "new"], ["decode", tmp_path / "archive", missing], ["decode", missing, tmp_path / "out"],
        ["salvage", tmp_path / "archive", missing], ["encode", f"{s3_url}/photo.jpg", tmp_path / "new"], ["ls", "s3://A B/x"],
        ["encode", f"{s3_url}/absent", tmp_path / "new"],
    ]  # fmt: skip
    for command in commands:
        result = photoark(*command)
        assert result.returncode == 2, (command, result.stderr)
        assert result.stderr.splitlines()[-1].startswith("photoark: ")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_belongs_is_wrong_usage(tmp_path: Path) -> None:
    file, source, archive = tmp_path / "src" / "a.txt", tmp_path / "src", tmp_path / "archive"
    source.mkdir()
    file.write_bytes(b"a")
    ArchiveWriter.open_or_create(str(archive)).commit([kept("a.txt")])
    for command in (
        ["encode", source, file], ["encode", source, file / "deep"], ["encode", file, tmp_path / "new"], ["ls", file],
        ["decode", archive, file], ["decode", archive, file / "deep"], ["salvage", file, tmp_path / "new"],
        ["salvage", archive, file], ["verify", archive, "--against", file], ["salvage", tmp_path / "absent", tmp_path / "new"],
    ):  # fmt: skip
        result = photoark(*command)
        assert result.returncode == 2, (command, result.stderr)
        assert str(tmp_path) in result.stderr.splitlines()[-1]
    assert file.read_bytes() == b"a"
    assert not (tmp_path / "new").exists()


def test_an_original_that_was_not_stored_is_wrong_usage(tmp_path: Path) -> None:
    row = replace(kept("a.jpg"), outcome=Outcome.ENCODED, codec="webp", reason=None)
    ArchiveWriter.open_or_create(str(tmp_path / "archive")).commit([row])
    result = photoark("restore", tmp_path / "archive", "a.jpg", "--original", "-o", tmp_path / "a.jpg")
    assert result.returncode == 2
    assert result.stderr == ("photoark: a.jpg: its own bytes were not stored; `encode --keep-original always` stores them\n")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    ArchiveWriter.open_or_create(str(archive)).commit([kept(f"{i}.txt") for i in range(5)])
    result = photoark("restore", archive, "0.txt", "-o", "/dev/full")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert (
        result.stderr
        == "photoark: /dev/full cannot be written: [Errno 28] No space left on device; make room, then try again\n"
    )
    for command in (["restore", archive, "0.txt", "-o", "-"], ["ls", archive], ["ls", archive, "--json"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PHOTOARK, *map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        said = "photoark: standard output cannot be written: [Errno 28] No space left on device; make room, then try again\n"
        assert (done.returncode, done.stderr) == (1, said)
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        done = subprocess.run([PHOTOARK, "ls", str(archive)], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")

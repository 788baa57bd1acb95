"""What is asked wrongly ends in one line that says what to do, and nothing is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs.settings import load_settings
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveNotFoundError, PhotoarkError, SettingError

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
    with pytest.raises(SettingError, match=r"there is no setting colour; README\.md lists them"):
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
    again = "then run the same command again"
    assert found == {
        "bucket": f"the archive at {url} cannot be opened: NoSuchBucket: The specified bucket does not exist; "
        f"check the bucket's name, or make the bucket, {again}",
        "network": f"the archive at {url} cannot be opened: Connection refused (os error 111); "
        f"the store cannot be reached: check the network and AWS_ENDPOINT_URL, {again}",
        "credentials": f"{url} cannot be opened: unable to locate credentials; "
        f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, {again}",
    }

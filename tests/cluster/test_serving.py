"""Ray Serve runs what the manifest says, here on CPUs: replicas answer, and one that is killed is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.archive.writer import ArchiveWriter
from pipeline.decode.restore import restore
from tests.cluster.machines import end_all, free_port, token
from tests.served import ROOT, Server, encoded, until

pytestmark = pytest.mark.cluster

MANIFEST = ROOT / "infra" / "kuberay" / "serve" / "rayservice.yaml"
NUM_REPLICAS = 2


@pytest.fixture
def archive(tmp_path: Path, photo_files: dict[str, bytes]) -> str:
    url = str(tmp_path / "archive")
    ArchiveWriter.open_or_create(url).commit([encoded("dir/a.jpg", photo_files["wine.jpg"])])
    return url


@pytest.fixture
def server(tmp_path: Path, archive: str) -> Iterator[Server]:
    """`serve run` on a Ray of its own, with the service's configuration but for archive, port, and GPUs."""
    config = yaml.safe_load(yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"])
    port = free_port()
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"] |= {
        "archive": archive, "device": "cpu", "gpus_per_replica": 0, "cpus_per_replica": 0.1,
        "min_replicas": NUM_REPLICAS, "max_replicas": NUM_REPLICAS,
    }  # fmt: skip
    file, log = tmp_path / "serve.yaml", tmp_path / "serve.log"
    file.write_text(yaml.safe_dump(config))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | token()
    command = [str(Path(sys.executable).with_name("serve")), "run", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)
    server = Server(port, process)
    try:
        until(lambda: _answers(server) and len(_replicas(server)) == NUM_REPLICAS, within_s=150)
        yield server
    except TimeoutError as error:
        raise TimeoutError(log.read_text()[-3000:]) from error
    finally:
        end_all(process)


def test_replicas_answer_and_one_that_dies_is_replaced(server: Server, archive: str) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(server.photo, ["dir/a.jpg"] * 16))
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {restore(archive, "dir/a.jpg").data}
    assert server.ask("/photos").json()["photos"][0]["key"] == "dir/a.jpg"
    assert server.photo("no.jpg").json()["type"] == "urn:photoark:problem:unknown-key"
    before = _replicas(server)
    before[0].kill()
    until(lambda: len({one.pid for one in _replicas(server)} - {one.pid for one in before}) == 1, within_s=60)
    until(lambda: all(_answers(server) for _ in range(8)), within_s=60)


def _answers(server: Server) -> bool:
    try:
        return server.photo("dir/a.jpg").status == 200
    except OSError:
        return False


def _replicas(server: Server) -> list[psutil.Process]:
    assert server.process is not None
    assert server.process.poll() is None, "serve run ended"
    found = []
    for one in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if one.name().startswith("ray::ServeRepl") or "ray::ServeReplica" in " ".join(one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found

"""A real Ray of several machines on one: raylets of their own, with GPUs that are but numbers."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RAY = str(Path(sys.executable).with_name("ray"))
STORE_BYTES = 80 << 20


@dataclass(slots=True)
class Autoscaled:
    """A head without GPUs, whose autoscaler may start machines with one each."""

    address: str
    environment: dict[str, str]

    def gpu_nodes(self) -> int:
        """How many are alive now. A driver that joined for the question would keep them from being idle."""
        code = (
            "import os; from ray._raylet import GcsClient; "
            "nodes = GcsClient(address=os.environ['RAY_ADDRESS']).get_all_node_info().values(); "
            "print(sum(node.state == 0 and node.resources_total.get('GPU', 0) > 0 for node in nodes))"
        )
        command = [sys.executable, "-W", "ignore", "-c", code]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=True)
        return int(result.stdout.split()[-1])

    def wait_until_released(self, within_s: float) -> None:
        """Until no machine with a GPU is left.

        Raises:
            TimeoutError: some were left after `within_s`.
        """
        started_s = time.monotonic()
        while self.gpu_nodes():
            if time.monotonic() - started_s > within_s:
                raise TimeoutError(f"GPU machines were still there after {within_s} s")
            time.sleep(1)


@contextmanager
def autoscaled(folder: Path, *, version: str, most: int, idle_timeout_s: float, period_s: float = 1.0) -> Iterator[Autoscaled]:
    """A cluster that the real autoscaler, v1 or v2, lets grow to `most` machines with a GPU; it looks every `period_s`."""
    ip, port = _own_ip(), free_port()
    address, head_id = f"{ip}:{port}", secrets.token_hex(28)
    provider: dict[str, Any] = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": address,
    }
    environment = os.environ | token()
    environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": f"{period_s:g}", "RAY_ADDRESS": address}
    if version == "v2":
        provider |= {"launch_multiple": True, "head_node_id": head_id}
        environment |= {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": head_id,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
        }
    config = folder / "cluster.json"
    config.write_text(json.dumps(_cluster_file(provider, most, idle_timeout_s)))
    head = _start([*_head_command(ip, port), f"--autoscaling-config={config}"], environment, folder / "head.log")
    try:
        # A machine or a driver that took over the head's name would be the head.
        others = {name: value for name, value in environment.items() if not name.startswith("RAY_OVERRIDE")}
        _wait_for_port(ip, port, 60)
        yield Autoscaled(address, others)
    finally:
        end_all(head)


@dataclass(slots=True)
class Machines:
    """A head without GPUs, and machines that a test adds and takes away."""

    address: str
    environment: dict[str, str]
    folder: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def add(self, name: str, *, labels: dict[str, str] | None = None) -> None:
        """Start a machine with one GPU, labelled `name` among others. One after the other: at once they would take each other
        for themselves, since all have one address.
        """
        text = ",".join(f"{key}={value}" for key, value in {"name": name, **(labels or {})}.items())
        command = [
            RAY, "start", f"--address={self.address}", "--num-cpus=1", "--num-gpus=1", f"--labels={text}",
            "--dashboard-agent-listen-port=0", "--include-log-monitor=false", f"--object-store-memory={STORE_BYTES}", "--block",
        ]  # fmt: skip
        log = self.folder / f"{name}.log"
        self._running[name] = _start(command, self.environment, log)
        deadline_s = time.monotonic() + 120
        while b"Ray runtime started" not in log.read_bytes():
            if self._running[name].poll() is not None or time.monotonic() > deadline_s:
                raise TimeoutError(f"machine {name} did not start: {log.read_text()[-500:]}")
            time.sleep(0.2)

    def lose(self, name: str) -> None:
        """Kill all processes of a machine at once, as when its power goes."""
        end_all(self._running.pop(name))

    def drain(self, name: str, within_s: float) -> None:
        """Announce, as a cloud does, that a machine will go `within_s`."""
        code = (
            "import ray, logging; ray.init(address='auto', logging_level=logging.ERROR, log_to_driver=False); "
            f"print([n['NodeID'] for n in ray.nodes() if n['Alive'] and n['Labels'].get('name') == '{name}'][0])"
        )
        command = [sys.executable, "-W", "ignore", "-c", code]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=True)
        command = [
            RAY, "drain-node", f"--address={self.address}", f"--node-id={found.stdout.split()[-1]}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test", f"--deadline-remaining-seconds={within_s:g}",
        ]  # fmt: skip
        subprocess.run(command, env=self.environment, capture_output=True, timeout=120, check=True)

    def end(self) -> None:
        """Kill what is left."""
        for process in self._running.values():
            end_all(process)


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """A cluster of machines that join one by one."""
    ip, port = _own_ip(), free_port()
    environment = os.environ | token() | {"RAY_ADDRESS": f"{ip}:{port}"}
    head = _start([*_head_command(ip, port), "--no-monitor"], environment, folder / "head.log")
    cluster = Machines(f"{ip}:{port}", environment, folder)
    try:
        _wait_for_port(ip, port, 60)
        yield cluster
    finally:
        cluster.end()
        end_all(head)


def _head_command(ip: str, port: int) -> list[str]:
    # Short: the name of a socket may have no more than 107 characters.
    temporary = Path("/tmp") / f"pa-{secrets.token_hex(4)}"
    return [
        RAY, "start", "--head", f"--node-ip-address={ip}", f"--port={port}", "--num-cpus=2", "--num-gpus=0",
        f"--temp-dir={temporary}", "--include-dashboard=false", "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false", f"--object-store-memory={STORE_BYTES}", "--block",
    ]  # fmt: skip


def token() -> dict[str, str]:
    """Environment of a Ray that answers to nobody else."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A busy machine is slow to start others.
        "RAY_raylet_start_wait_time_s": "100",
    }


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, by which all that comes of it is found again."""
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


def _cluster_file(provider: dict[str, Any], most: int, idle_timeout_s: float) -> dict[str, Any]:
    resources = {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "idle_timeout_minutes": idle_timeout_s / 60,
        # As KubeRay sets it, and infra/aws: with 1, v2 asks for one machine, and for as many more as run when those do.
        "upscaling_speed": 1000,
        "provider": provider,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "max_workers": 0, "node_config": {}},
            "gpu": {"resources": resources, "min_workers": 0, "max_workers": most, "node_config": {}},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def end_all(leader: subprocess.Popen[bytes]) -> None:
    """All processes of the session that `leader` leads, by their ids; those that outlived their parents too."""
    import psutil

    family = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader.pid:
                family.append(process)
        except ProcessLookupError:
            continue
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    leader.wait(30)
    psutil.wait_procs(family, timeout=20)


def _own_ip() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())


def free_port() -> int:
    """A port that nobody listens on, as of now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _wait_for_port(ip: str, port: int, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection((ip, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)

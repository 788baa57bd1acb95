"""A Ray that is started here serves who has its token, and nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STRANGER = """
import sys
from ray._raylet import GcsClient
print("nodes", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)))
"""
_OWNER = f"""
import os, subprocess, sys
import psutil
from cluster.connect import connected

def answer(address, **environment):
    command = [sys.executable, "-c", {_STRANGER!r}, address]
    known = {{"HOME": os.environ["HOME"], "RAY_gcs_rpc_server_reconnect_timeout_s": "2"}}
    result = subprocess.run(command, env=known | environment, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else result.stderr.strip().splitlines()[-1]

with connected():
    import ray
    address = ray.get_runtime_context().gcs_address
    print(oct(os.stat(os.path.expanduser("~/.ray/auth_token")).st_mode & 0o777))
    for environment in ({{"RAY_AUTH_MODE": "token"}}, {{"RAY_AUTH_MODE": "disabled"}},
                        {{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}}):
        print(answer(address, **environment))
    ours = psutil.Process().children(recursive=True)
    print([c.laddr for p in ours for c in p.net_connections("tcp") if c.laddr.port == 8265])
"""


def test_strangers_get_no_answer_and_the_token_is_the_users_alone(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", _OWNER]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    mode, owner, nobody, impostor, dashboards = result.stdout.splitlines()
    assert mode == "0o600"
    assert owner == "nodes 1"
    assert nobody.startswith("ray.exceptions.AuthenticationError")
    assert impostor.startswith("ray.exceptions.AuthenticationError")
    assert dashboards == "[]"

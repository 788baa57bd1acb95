"""The Kubernetes objects: valid by Kubernetes' own schemas, closed to the network, without rights they do not need."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
KUBERAY = INFRA / "kuberay"
KUBERNETES = "1.34"
RAYJOB = json.loads(Path(__file__).with_name("kuberay_v1.schema.json").read_text())
OVERLAYS = ["encode", "decode"]
Object = dict[str, Any]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_what_these_tests_check(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    output = subprocess.run(["kubectl", "kustomize", KUBERAY / overlay], check=True, capture_output=True, text=True).stdout
    assert _by_name(yaml.safe_load_all(output)) == _by_name(_rendered(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_are_valid(overlay: str) -> None:
    kinds = []
    for thing in _rendered(overlay):
        kinds.append(thing["kind"])
        if thing["kind"] == "RayJob":
            jsonschema.validate(thing, RAYJOB)
        else:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    assert sorted(set(kinds)) == ["Namespace", "NetworkPolicy", "RayJob", "ServiceAccount"]
    for name, template in _pod_templates(_rayjob(overlay)).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "add", "path": "/spec/rayClusterSpec/enableInTreeAutoScaling", "value": True},
        {"op": "replace", "path": "/spec/rayClusterSpec/autoscalerOptions/version", "value": "2"},
        {"op": "remove", "path": "/spec/rayClusterSpec/workerGroupSpecs/0/maxReplicas"},
        {"op": "replace", "path": "/spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", "value": 0},
    ],
    ids=lambda patch: patch["path"].rpartition("/")[2],
)
def test_a_misspelt_rayjob_is_seen(patch: Object) -> None:
    broken = jsonpatch.apply_patch(_rayjob("encode"), [patch])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, RAYJOB)


def test_a_misspelt_pod_is_seen() -> None:
    template = _pod_templates(_rayjob("encode"))["gpu"]
    template["spec"]["containers"][0]["volumeMount"] = []
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "gpu"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_job_runs_a_command_that_exists_and_ends(overlay: str) -> None:
    spec = _rayjob(overlay)["spec"]
    program, command, *arguments = shlex.split(spec["entrypoint"])
    # Only as separate words: the operator's and Ray's shells both read this line before the program does.
    assert spec["entrypoint"].split() == [program, command, *arguments]
    assert program == "photoark-job"
    assert (INFRA / "container" / program).exists()
    help_text = subprocess.run(
        [Path(sys.executable).with_name("photoark"), command, "--help"],
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        check=True,
    ).stdout
    assert all(option in help_text for option in arguments if option.startswith("--"))
    assert command == overlay
    assert spec["shutdownAfterJobFinishes"] is True


def test_gpu_workers_come_and_go() -> None:
    cluster = _rayjob("encode")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == metadata.version("ray")
    assert (cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]["version"]) == (True, "v2")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head = {entry["name"]: entry["value"] for entry in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
    assert int(head["PHOTOARK_MAX_GPUS"]) == sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"])
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"


def test_ray_asks_for_a_token_from_a_secret() -> None:
    assert _rayjob("encode")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "photoark-ray-token"}
    # A secret in a repository is none.
    assert "Secret" not in {thing["kind"] for thing in _rendered("encode")}


def test_pods_may_do_nothing_that_they_need_not() -> None:
    job = _rayjob("encode")
    for name, template in _pod_templates(job).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001, "the image's user"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is (name == "head"), "the autoscaler alone talks to Kubernetes"
        assert all(_is_restricted(container["securityContext"]) for container in spec["containers"])
    assert _is_restricted(job["spec"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"])


def test_network_is_closed_but_for_what_is_needed() -> None:
    policies = {thing["metadata"]["name"]: thing["spec"] for thing in _rendered("encode") if thing["kind"] == "NetworkPolicy"}
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    templates = _pod_templates(_rayjob("encode"))
    labels = {name: template["metadata"]["labels"] for name, template in templates.items()}
    # Labels that the operator sets.
    labels["head"] |= {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}
    labels["gpu"] |= {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"}
    for name, policy in policies.items():
        wanted = policy["podSelector"].get("matchLabels", {}).items()
        assert any(wanted <= pod.items() for pod in labels.values()), f"{name} selects no pod"
        for rule in policy.get("ingress", []):
            assert all("ipBlock" not in peer for peer in rule["from"]), f"{name} lets addresses in"
        for rule in policy.get("ingress", []) + policy.get("egress", []):
            assert rule.get("ports") or name == "ray-nodes", f"{name} opens every port"
    anywhere = [
        (name, rule["ports"])
        for name, policy in policies.items()
        for rule in policy.get("egress", [])
        for peer in rule["to"]
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert anywhere == [("bucket", [{"protocol": "TCP", "port": 443}])]


def _is_restricted(context: Object) -> bool:
    return context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _rendered(overlay: str) -> list[Object]:
    """What kustomize makes of an overlay: the base's objects, patched. The first test holds it to kustomize itself."""
    patches = yaml.safe_load((KUBERAY / overlay / "kustomization.yaml").read_text())["patches"]
    things = []
    for thing in _base():
        for patch in patches:
            if patch["target"]["kind"] == thing["kind"]:
                thing = jsonpatch.apply_patch(thing, yaml.safe_load(patch["patch"]))
        things.append(thing)
    return things


def _base() -> Iterator[Object]:
    for name in yaml.safe_load((KUBERAY / "base" / "kustomization.yaml").read_text())["resources"]:
        yield from yaml.safe_load_all((KUBERAY / "base" / name).read_text())


def _by_name(things: Iterator[Object] | list[Object]) -> dict[tuple[str, str], Object]:
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}


def _rayjob(overlay: str) -> Object:
    return next(thing for thing in _rendered(overlay) if thing["kind"] == "RayJob")


def _pod_templates(rayjob: Object) -> dict[str, Object]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": rayjob["spec"]["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"], **groups}

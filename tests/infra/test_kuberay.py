"""The Kubernetes objects: valid by Kubernetes' own schemas, closed to the network, without rights they do not need."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.serving import ServingArguments

INFRA = Path(__file__).parents[2] / "infra"
KUBERAY = INFRA / "kuberay"
KUBERNETES = "1.34"
SCHEMA = json.loads(Path(__file__).with_name("kuberay_v1.schema.json").read_text())
JOBS = ["encode", "decode"]
OVERLAYS = [*JOBS, "serve"]
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
        if thing["kind"].startswith("Ray"):
            jsonschema.validate(thing, SCHEMA)
        else:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    runs = "RayService" if overlay == "serve" else "RayJob"
    assert sorted(set(kinds)) == ["Namespace", "NetworkPolicy", runs, "ServiceAccount"]
    assert kinds.count(runs) == 1
    for name, template in _pod_templates(overlay).items():
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
    broken = jsonpatch.apply_patch(_runs("encode"), [patch])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "move", "from": "/spec/rayClusterConfig", "path": "/spec/rayClusterSpec"},
        {"op": "move", "from": "/spec/serveConfigV2", "path": "/spec/serveConfig"},
        {"op": "add", "path": "/spec/rayClusterConfig/workerGroupSpecs/0/maxReplica", "value": 1},
    ],
    ids=lambda patch: patch["path"].rpartition("/")[2],
)
def test_a_misspelt_rayservice_is_seen(patch: Object) -> None:
    broken = jsonpatch.apply_patch(_runs("serve"), [patch])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_a_misspelt_pod_is_seen() -> None:
    template = _pod_templates("encode")["gpu"]
    template["spec"]["containers"][0]["volumeMount"] = []
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "gpu"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", JOBS)
def test_job_runs_a_command_that_exists_and_ends(overlay: str) -> None:
    spec = _runs(overlay)["spec"]
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


def test_service_is_one_that_ray_serve_takes() -> None:
    config = _serve_config()
    assert config.http_options.port == 8000
    (application,) = config.applications
    arguments = ServingArguments.model_validate(application.args)
    assert callable(getattr(import_module("cluster.serving"), application.import_path.removeprefix("cluster.serving:")))
    (group,) = _cluster("serve")["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    assert arguments.max_replicas * arguments.gpus_per_replica == group["maxReplicas"]
    assert arguments.cpus_per_replica <= int(container["resources"]["requests"]["cpu"])
    assert arguments.min_replicas == 0, "or a GPU is kept while nobody asks"


def test_requests_go_where_a_proxy_answers() -> None:
    port = _serve_config().http_options.port
    templates = _pod_templates("serve")
    for name, template in templates.items():
        container = template["spec"]["containers"][0]
        assert {"name": "serve", "containerPort": port} in container["ports"], f"{name}: the operator looks for this name"
    probe = templates["gpu"]["spec"]["containers"][0]["readinessProbe"]
    assert (probe["httpGet"], probe["failureThreshold"]) == ({"path": "/-/healthz", "port": port}, 1)
    policies = _policies("serve")
    who = {name: rule["from"] for name, policy in policies.items() for rule in policy.get("ingress", []) if _opens(rule, port)}
    assert {name: [peer["namespaceSelector"]["matchLabels"] for peer in peers] for name, peers in who.items()} == {
        "http": [{"kubernetes.io/metadata.name": "ingress-nginx"}],
        "operator-http": [{"kubernetes.io/metadata.name": "kuberay-system"}],
    }


def test_serving_runs_in_the_pods_of_the_jobs() -> None:
    ours, theirs = _pod_templates("serve"), _pod_templates("encode")
    for name, template in ours.items():
        for key in ("ports", "readinessProbe", "env"):
            for each in (template, theirs[name]):
                del each["spec"]["containers"][0][key]
        assert template["spec"] == theirs[name]["spec"]
    differs = {"headGroupSpec", "workerGroupSpecs"}
    assert {key: value for key, value in _cluster("serve").items() if key not in differs} == {
        key: value for key, value in _cluster("encode").items() if key not in differs
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gpu_workers_come_and_go(overlay: str) -> None:
    cluster = _cluster(overlay)
    assert cluster["rayVersion"] == metadata.version("ray")
    assert (cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]["version"]) == (True, "v2")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("overlay", JOBS)
def test_a_job_knows_how_many_gpus_there_may_be(overlay: str) -> None:
    cluster = _cluster(overlay)
    head = {entry["name"]: entry["value"] for entry in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
    assert int(head["PHOTOARK_MAX_GPUS"]) == sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_asks_for_a_token_from_a_secret(overlay: str) -> None:
    assert _cluster(overlay)["authOptions"] == {"mode": "token", "secretName": "photoark-ray-token"}
    # A secret in a repository is none.
    assert "Secret" not in {thing["kind"] for thing in _rendered(overlay)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_do_nothing_that_they_need_not(overlay: str) -> None:
    for name, template in _pod_templates(overlay).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001, "the image's user"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is (name == "head"), "the autoscaler alone talks to Kubernetes"
        assert all(_is_restricted(container["securityContext"]) for container in spec["containers"])
    assert _is_restricted(_cluster(overlay)["autoscalerOptions"]["securityContext"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_is_closed_but_for_what_is_needed(overlay: str) -> None:
    policies = _policies(overlay)
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {name: template["metadata"]["labels"] for name, template in _pod_templates(overlay).items()}
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


def _opens(rule: Object, port: int) -> bool:
    return any(entry["port"] == port for entry in rule.get("ports", []))


def _rendered(overlay: str) -> list[Object]:
    """What kustomize makes of an overlay: its resources, patched. The first test holds it to kustomize itself."""
    patches = yaml.safe_load((KUBERAY / overlay / "kustomization.yaml").read_text()).get("patches", [])
    things = []
    for thing in _resources(KUBERAY / overlay):
        for patch in patches:
            if patch["target"]["kind"] == thing["kind"]:
                thing = jsonpatch.apply_patch(thing, yaml.safe_load(patch["patch"]))
        things.append(thing)
    return things


def _resources(folder: Path) -> Iterator[Object]:
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        if (folder / name).is_dir():
            yield from _resources(folder / name)
        else:
            yield from yaml.safe_load_all((folder / name).read_text())


def _by_name(things: Iterator[Object] | list[Object]) -> dict[tuple[str, str], Object]:
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}


def _policies(overlay: str) -> dict[str, Object]:
    return {thing["metadata"]["name"]: thing["spec"] for thing in _rendered(overlay) if thing["kind"] == "NetworkPolicy"}


def _runs(overlay: str) -> Object:
    """The RayJob or the RayService."""
    return next(thing for thing in _rendered(overlay) if thing["kind"].startswith("Ray"))


def _cluster(overlay: str) -> Object:
    spec: Object = _runs(overlay)["spec"]
    cluster: Object = spec["rayClusterConfig" if overlay == "serve" else "rayClusterSpec"]
    return cluster


def _serve_config() -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load(_runs("serve")["spec"]["serveConfigV2"]))


def _pod_templates(overlay: str) -> dict[str, Object]:
    cluster = _cluster(overlay)
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    templates = {"head": cluster["headGroupSpec"]["template"], **groups}
    if overlay != "serve":
        templates["submitter"] = _runs(overlay)["spec"]["submitterPodTemplate"]
    return templates

"""Dashboard and rules: expressions that Prometheus accepts, over metrics that somebody exports."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
DECLARED = re.findall(
    r'\b(Counter|Gauge|Histogram)\("(photoark_\w+)"', (ROOT / "pipeline" / "on_ray" / "telemetry.py").read_text()
)
# As Ray exports them.
OURS = {
    f"ray_{name}{part}" for kind, name in DECLARED for part in (("_bucket", "_sum", "_count") if kind == "Histogram" else ("",))
}
RECORDED = {rule["record"]: rule["expr"] for group in RULES for rule in group["rules"] if "record" in rule}
ALERTS = {rule["alert"]: rule for group in RULES for rule in group["rules"] if "alert" in rule}


def test_rules_and_dashboard_use_metrics_that_exist() -> None:
    # Ray's own, as the dashboards that it ships with use them.
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    rays = set(re.findall(r"\b(?:ray_node|autoscaler)_\w+", "\n".join(path.read_text() for path in folder.glob("*.py"))))
    rules = [*RECORDED.values(), *(alert["expr"] for alert in ALERTS.values())]
    used = {name for expression in [*rules, *_dashboard_expressions()] for name in _metrics(expression)}
    assert used - OURS - rays - set(RECORDED) == set()
    assert set(RECORDED) <= used, "recorded, and nobody looks"
    unseen = {name for _, name in DECLARED if not any(metric.startswith(f"ray_{name}") for metric in used)}
    assert unseen == set(), "exported, and nobody looks"


# A job as any, but for a port that is known and figures that come every second; it prints what Prometheus would read.
SCRAPED_JOB = """
import logging, sys, time, urllib.request
import ray
from pipeline.quality.gate import parse_gate
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode

folder, port, wanted = sys.argv[1], int(sys.argv[2]), set(sys.argv[3].split())
ray.init(
    address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False,
    logging_level=logging.ERROR, _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 1000},
)
encode(EncodeJob(source=f"{folder}/photos", archive=f"{folder}/archive", codec="webp", gate=parse_gate("psnr=20,ms_ssim=0.5")))
decode(DecodeJob(archive=f"{folder}/archive", destination=f"{folder}/restored"))
text, tries = "", 0
while not all(name in text for name in wanted) and (tries := tries + 1) < 60:
    time.sleep(0.5)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
print(text)
ray.shutdown()
"""


def test_prometheus_finds_what_rules_and_dashboard_read(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    expressions = [*RECORDED.values(), *(alert["expr"] for alert in ALERTS.values()), *_dashboard_expressions()]
    used = {name for expression in expressions for name in _metrics(expression) if name.startswith("ray_photoark_")}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wine.jpg").write_bytes(photo_files["wine.jpg"])
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-c", SCRAPED_JOB, str(tmp_path), str(port), " ".join(used)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(result.stdout):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    assert used - found.keys() == set()

    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    added = {rule["target_label"] for rule in job["relabel_configs"] if "target_label" in rule}
    for expression in expressions:
        # What an aggregation keeps, and what a selector asks for; what scraping adds is not there yet.
        kept = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
        for name, selector in re.findall(r"\b(ray_photoark_\w+)(?:\{([^}]*)\})?", expression):
            for sample in found[name]:
                assert kept - added <= sample.labels.keys(), (expression, sample)
            for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
                assert value in {sample.labels[label] for sample in found[name]}, (expression, label)
    counted = {(s.labels["stage"], s.labels["outcome"]): s.value for s in found["ray_photoark_photos_total"]}
    assert counted == {
        ("encode", "encoded"): 1, ("encode", "failed"): 1, ("decode", "restored"): 1, ("decode", "failed"): 1
    }  # fmt: skip
    (rows,) = found["ray_photoark_commit_rows_total"]
    (backlog,) = found["ray_photoark_backlog_photos"]
    assert (rows.value, backlog.value) == (2, 0)


def test_dashboard_shows_what_matters() -> None:
    shown = " ".join(_dashboard_expressions() + [RECORDED[name] for name in RECORDED])
    for metric in ("photos_total", "backlog_photos", "commits_total", "bpp", "psnr_db", "ms_ssim", "codec_busy_ratio"):
        assert f"ray_photoark_{metric}" in shown
    assert "ray_node_gpus_utilization" in shown
    assert 'outcome="failed"' in shown


def test_dashboard_is_one_that_grafana_can_load() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        assert panel["datasource"]["uid"] == "${datasource}", "tied to somebody's Grafana"
        assert panel["title"]
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len(places) == len(PANELS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) == variables


def test_every_alert_says_what_to_do_and_has_a_test() -> None:
    tests = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    for alert in ALERTS.values():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "action"}
        assert alert["for"]
    readme = (MONITORING.parent / "README.md").read_text()
    assert set(re.findall(r"^\| (Photoark\w+) \|", readme, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize(
    ("file", "part"), [("job/rayjob.yaml", "rayClusterSpec"), ("serve/rayservice.yaml", "rayClusterConfig")]
)
def test_scraping_finds_the_ports_that_pods_name(file: str, part: str) -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    by_source = {rule["source_labels"][0]: rule for rule in job["relabel_configs"]}
    wanted = by_source["__meta_kubernetes_pod_container_port_name"]["regex"]
    cluster = next(yaml.safe_load_all((MONITORING.parent / "kuberay" / file).read_text()))["spec"][part]
    named = {
        port["name"]: port["containerPort"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for port in group["template"]["spec"]["containers"][0]["ports"]
    }
    scraped = {port for name, port in named.items() if re.fullmatch(wanted, name)}
    assert scraped == {8080, 44217, 44227}
    policies = yaml.safe_load_all((MONITORING.parent / "kuberay" / "base" / "network-policy.yaml").read_text())
    (metrics,) = [policy for policy in policies if policy["metadata"]["name"] == "metrics"]
    assert {port["port"] for port in metrics["spec"]["ingress"][0]["ports"]} == scraped


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    return program


def test_promtool_runs_the_rules(promtool: str) -> None:
    result = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_accepts_configuration_and_dashboard(promtool: str, tmp_path: Path) -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    # Debian builds its promtool without Kubernetes; the rest is checked with an address in its place.
    del config["scrape_configs"][0]["kubernetes_sd_configs"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": ["localhost:8080"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "rules.yml").write_bytes((MONITORING / "rules.yml").read_bytes())
    panels = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(_dashboard_expressions())]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": panels}]}))
    for command in (["check", "config", "prometheus.yml"], ["check", "rules", "panels.yml"]):
        result = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def _dashboard_expressions() -> list[str]:
    return [target["expr"].replace("$cluster", "c") for panel in PANELS for target in panel["targets"]]


def _metrics(expression: str) -> set[str]:
    """Names that an expression reads; functions and labels have neither a colon nor these beginnings."""
    return set(re.findall(r"\b(?:photoark:[\w:]+|ray_\w+|autoscaler_\w+)", expression))

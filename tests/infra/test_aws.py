"""AWS: Terraform, the job's policy against a server that enforces it, Ray's launcher.

The provider is a program that Terraform downloads. Where a mirror has it, a plan is made, against a server that answers as
AWS does; everywhere, what a plan would find first is looked for without it: syntax, references to what does not exist,
arguments that the provider does not know or misses.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import hcl2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
AWS = ROOT / "infra" / "aws"
TERRAFORM = AWS / "terraform"
# Argument names of the resources used, at every depth, as the provider's published bindings have them.
ARGUMENTS = json.loads(Path(__file__).with_name("aws_arguments.json").read_text())["arguments"]
META = {"count", "depends_on", "for_each", "lifecycle", "provider"}
LAUNCHER = yaml.safe_load((AWS / "ray-cluster.yaml").read_text())
Block = dict[str, Any]


@pytest.fixture(scope="module")
def terraform() -> str:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not installed")
    return program


def test_terraform_is_formatted(terraform: str) -> None:
    result = _run([terraform, "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)])
    assert result.returncode == 0, result.stdout


def test_terraform_reads_it_up_to_its_provider(terraform: str) -> None:
    result = _run([terraform, "validate", "-json"], cwd=TERRAFORM)
    problems = [problem["summary"] for problem in json.loads(result.stdout)["diagnostics"]]
    assert problems == ["Missing required provider"]


def test_terraform_makes_a_plan(terraform: str, s3_server: str, tmp_path: Path) -> None:
    places = [*Path("/opt").glob("*"), *(Path(share, "terraform/plugins") for share in ("/usr/share", "/usr/local/share"))]
    mirrors = [place for place in places if (place / "registry.terraform.io" / "hashicorp" / "aws").is_dir()]
    if not mirrors:
        pytest.skip("no mirror of Terraform's AWS provider on this machine")
    shutil.copytree(TERRAFORM, tmp_path / "code", ignore=shutil.ignore_patterns(".terraform*"))
    rc = tmp_path / "terraformrc"
    rc.write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{mirrors[0]}" }}\n}}\n')
    environment = {"TF_CLI_CONFIG_FILE": str(rc)}
    made = _run([terraform, "init", "-backend=false", "-input=false"], cwd=tmp_path / "code", environment=environment)
    assert made.returncode == 0, made.stderr
    ec2 = boto3.client("ec2", region_name="us-east-1", endpoint_url=s3_server)
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:2]
    variables = {"region": "us-east-1", "bucket": "photos", "subnet_ids": subnets, "ssh_cidrs": ["10.0.0.0/8"]}
    (tmp_path / "code" / "terraform.tfvars.json").write_text(json.dumps(variables))
    plan = _run([terraform, "plan", "-input=false", "-no-color"], cwd=tmp_path / "code", environment=environment)
    assert plan.returncode == 0, plan.stderr
    assert re.search(r"^Plan: \d\d to add, 0 to change, 0 to destroy", plan.stdout, re.MULTILINE)


def test_references_lead_somewhere() -> None:
    text = "\n".join(_without_strings(path.read_text()) for path in sorted(TERRAFORM.glob("*.tf")))
    code = _terraform()
    known = {f"var.{name}" for name in _names(code, "variable")} | {f"local.{name}" for part in code["locals"] for name in part}
    known |= {f"{kind}.{name}" for kind, name, _ in _blocks(code, "resource")}
    known |= {f"data.{kind}.{name}" for kind, name, _ in _blocks(code, "data")}
    used = set(re.findall(r"(?<![\w.])((?:var|local)\.\w+|(?:data\.)?aws_\w+\.\w+)", text))
    assert used - known == set()
    assert {name for name in known if name.startswith("var.")} <= used, "a variable that nothing reads"


@pytest.mark.parametrize("kind", ["resource", "data"])
def test_provider_knows_every_argument(kind: str) -> None:
    for type_, name, body in _blocks(_terraform(), kind):
        known = ARGUMENTS[type_ if kind == "resource" else f"data.{type_}"]
        assert set(_arguments(body)) <= set(known["names"]), f"{type_}.{name}"
        assert set(known["required"]) <= set(body), f"{type_}.{name}"


def test_bucket_is_versioned_encrypted_and_private() -> None:
    code = {type_: body for type_, _, body in _blocks(_terraform(), "resource") if type_.startswith("aws_s3_bucket")}
    assert code["aws_s3_bucket_versioning"]["versioning_configuration"][0]["status"] == "Enabled"
    assert code["aws_s3_bucket_server_side_encryption_configuration"]["rule"]
    private = code["aws_s3_bucket_public_access_block"]
    assert all(private[switch] is True for switch in private if switch.startswith(("block_", "ignore_", "restrict_")))


def test_node_groups_are_what_the_jobs_ask_for() -> None:
    pools = _terraform()["locals"][0]["pools"]
    assert (pools["gpu"]["min_size"], pools["gpu"]["capacity_type"]) == (0, "SPOT")
    job = next(yaml.safe_load_all((ROOT / "infra/kuberay/job/rayjob.yaml").read_text()))["spec"]["rayClusterSpec"]
    for group in [job["headGroupSpec"], *job["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        tolerated = {toleration["key"] for toleration in pod.get("tolerations", [])}
        assert set(pools[pod["nodeSelector"]["photoark/pool"]]["taints"]) == tolerated


def test_policy_is_enough_for_the_work_and_for_nothing_else(s3_server: str) -> None:
    import requests

    bucket = "photos-under-policy"
    root: dict[str, Any] = {"endpoint_url": s3_server, "region_name": "us-east-1"}
    boto3.client("s3", **root).create_bucket(Bucket=bucket)
    boto3.client("s3", **root).put_object(Bucket=bucket, Key="originals/a/b.jpg", Body=b"a photo")
    iam = boto3.client("iam", **root)
    iam.create_user(UserName="job")
    policy = (TERRAFORM / "job-policy.json.tftpl").read_text().replace("${bucket_arn}", f"arn:aws:s3:::{bucket}")
    iam.put_user_policy(UserName="job", PolicyName="bucket", PolicyDocument=policy)
    key = iam.create_access_key(UserName="job")["AccessKey"]
    identity = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    # From here on the server looks at who asks for what; before, and after this test, it does not.
    requests.post(f"{s3_server}/moto-api/reset-auth", data="0", timeout=10)
    try:
        work = _run([sys.executable, "-c", WORK, f"s3://{bucket}"], environment=identity)
        assert work.returncode == 0, work.stderr[-2000:]
        job = boto3.client("s3", **root, aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])
        for forbidden in (
            lambda: job.put_object(Bucket=bucket, Key="originals/a/b.jpg", Body=b"another"),
            lambda: job.delete_object(Bucket=bucket, Key="originals/a/b.jpg"),
            lambda: job.put_object(Bucket=bucket, Key="elsewhere", Body=b""),
            lambda: job.get_object(Bucket=bucket, Key="elsewhere"),
            lambda: job.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
            job.list_buckets,
        ):
            with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
                forbidden()
    finally:
        requests.post(f"{s3_server}/moto-api/reset-auth", data="inf", timeout=10)


# What jobs ask of storage, in a process that has the role's credentials and no others.
WORK = """
import sys
from pipeline.archive.writer import ArchiveWriter
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.base import Storage
bucket = sys.argv[1]
source = Storage(f"{bucket}/originals")
assert source.exists()
(photo,) = source.list()
data = source.read(photo.path)
row = dict(codec="original", model=None, outcome=Outcome.KEPT, source_uri=photo.uri, source_bytes=len(data))
for number in range(2):
    archive = ArchiveWriter.open_or_create(f"{bucket}/archive")
    archive.commit([EncodedPhoto(key=f"{number}.jpg", image=data, **row)])
assert ArchiveWriter.open(f"{bucket}/archive").keys() == {"0.jpg", "1.jpg"}
Storage(f"{bucket}/restored").write("a/b.jpg", data)
from jobs.cli import main
for command in ("verify", "optimize", "vacuum"):
    sys.argv = ["photoark", command, f"{bucket}/archive"]
    try:
        main()
    except SystemExit as leaving:
        assert not leaving.code, (command, leaving.code)
"""


def test_launcher_file_is_valid_to_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(LAUNCHER))
    validate_config(config)
    broken = prepare_config(copy.deepcopy(LAUNCHER))
    broken["available_node_types"]["gpu-spot"]["minimum_workers"] = 0
    with pytest.raises(Exception, match="minimum_workers"):
        validate_config(broken)
    assert all("RAY_AUTH_MODE=token" in config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))


def test_launcher_starts_spot_workers_and_opens_nothing(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own launcher code, against a server that answers as EC2 and IAM do."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray makes a key for SSH there
    (tmp_path / ".ssh").mkdir()
    config = copy.deepcopy(LAUNCHER)
    ec2 = boto3.client("ec2", region_name=config["provider"]["region"], endpoint_url=s3_server)
    iam = boto3.client("iam", endpoint_url=s3_server)
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{n}.0/24")["Subnet"]["SubnetId"] for n in range(2)]
    group = ec2.create_security_group(VpcId=vpc, GroupName="own", Description="own")["GroupId"]
    for machine in config["available_node_types"].values():
        machine["node_config"] |= {"SubnetIds": subnets, "SecurityGroupIds": [group]}
        iam.create_instance_profile(InstanceProfileName=machine["node_config"]["IamInstanceProfile"]["Name"])
    groups = ec2.describe_security_groups()["SecurityGroups"]
    config = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu-spot", "ray-launch-config": "1"}
    provider.create_node(config["available_node_types"]["gpu-spot"]["node_config"], tags, 1)
    machines = [machine for part in ec2.describe_instances()["Reservations"] for machine in part["Instances"]]
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert [machine["InstanceLifecycle"] for machine in machines] == ["spot"]
    assert [machine["MetadataOptions"]["HttpTokens"] for machine in machines] == ["required"]
    assert ec2.describe_security_groups()["SecurityGroups"] == groups, "Ray opened something by itself"


def _run(
    command: list[str], *, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    quiet = {"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **quiet, **(environment or {})}, capture_output=True, text=True, check=False
    )


def _terraform() -> Block:
    options = hcl2.SerializationOptions(strip_string_quotes=True, explicit_blocks=False, with_comments=False)
    merged: Block = {}
    for path in sorted(TERRAFORM.glob("*.tf")):
        for kind, blocks in hcl2.loads(path.read_text(), serialization_options=options).items():
            merged.setdefault(kind, []).extend(blocks)
    return merged


def _blocks(code: Block, kind: str) -> Iterator[tuple[str, str, Block]]:
    for block in code[kind]:
        for type_, named in block.items():
            for name, body in named.items():
                yield type_, name, body


def _names(code: Block, kind: str) -> set[str]:
    return {name for block in code[kind] for name in block}


def _arguments(body: Block) -> Iterator[str]:
    """Names of arguments and nested blocks, dynamic ones included, without Terraform's own."""
    for name, value in body.items():
        if name in META:
            continue
        if name == "dynamic":
            for block in value:
                for generated, inside in block.items():
                    yield generated
                    yield from _arguments(inside["content"][0])
            continue
        yield name
        for block in value if isinstance(value, list) else []:
            if isinstance(block, dict):
                yield from _arguments(block)


def _without_strings(text: str) -> str:
    """Code without comments and without the literal parts of strings; what is interpolated stays."""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    return re.sub(r'"[^"]*"', lambda quoted: " ".join(re.findall(r"\$\{(.*?)\}", quoted[0])), text)

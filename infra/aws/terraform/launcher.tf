# For infra/aws/ray-cluster.yaml: the machines of Ray's cluster launcher. The head starts and ends workers; both do the job.
data "aws_subnet" "first" {
  id = var.subnet_ids[0]
}

resource "aws_security_group" "launcher" {
  name        = "${var.name}-ray"
  description = "Ray nodes among themselves, SSH from the VPC, and out"
  vpc_id      = data.aws_subnet.first.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = aws_security_group.launcher.id
  referenced_security_group_id = aws_security_group.launcher.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each          = toset(var.ssh_cidrs)
  security_group_id = aws_security_group.launcher.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "nodes" {
  security_group_id            = aws_security_group.launcher.id
  referenced_security_group_id = aws_security_group.launcher.id
  ip_protocol                  = "-1"
}

# S3, EC2, and the packages of setup_commands.
resource "aws_vpc_security_group_egress_rule" "web" {
  for_each          = toset(["80", "443"])
  security_group_id = aws_security_group.launcher.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

resource "aws_iam_role" "launcher" {
  for_each           = toset(["head", "worker"])
  name               = "${var.name}-ray-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.service["ec2"].json
}

resource "aws_iam_instance_profile" "launcher" {
  for_each = aws_iam_role.launcher
  name     = each.value.name
  role     = each.value.name
}

resource "aws_iam_role_policy" "launcher_job" {
  for_each = aws_iam_role.launcher
  name     = "bucket"
  role     = each.value.id
  policy   = aws_iam_role_policy.job.policy
}

resource "aws_iam_role_policy" "launcher_head" {
  name   = "workers"
  role   = aws_iam_role.launcher["head"].id
  policy = data.aws_iam_policy_document.launcher_head.json
}

data "aws_iam_policy_document" "launcher_head" {
  statement {
    actions = [
      "ec2:DescribeAvailabilityZones",
      "ec2:DescribeImages",
      "ec2:DescribeInstances",
      "ec2:DescribeInstanceStatus",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeKeyPairs",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets",
      "ec2:RunInstances",
    ]
    resources = ["*"]
  }
  statement {
    actions   = ["ec2:CreateTags"]
    resources = ["*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  # Ray keeps the state of its machines in their tags.
  statement {
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:ResourceTag/ray-cluster-name"
      values   = ["photoark"]
    }
  }
  statement {
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.launcher["worker"].arn]
  }
}

resource "aws_eks_cluster" "this" {
  name     = var.name
  role_arn = aws_iam_role.cluster.arn
  version  = var.kubernetes_version

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true
  }

  vpc_config {
    subnet_ids              = var.subnet_ids
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_cidrs) > 0
    public_access_cidrs     = length(var.api_cidrs) > 0 ? var.api_cidrs : null
  }

  enabled_cluster_log_types = ["api", "audit", "authenticator"]
  depends_on                = [aws_iam_role_policy_attachment.cluster]
}

locals {
  addons = {
    # Without this the network policies of infra/kuberay are not enforced.
    vpc-cni                = jsonencode({ enableNetworkPolicy = "true" })
    kube-proxy             = null
    coredns                = null
    eks-pod-identity-agent = null
  }

  # Names and taints are what nodeSelector and tolerations of infra/kuberay/job/rayjob.yaml ask for.
  pools = {
    system = {
      ami_type       = "AL2023_x86_64_STANDARD"
      capacity_type  = "ON_DEMAND"
      instance_types = ["m7i.large"]
      disk_gib       = 50
      min_size       = 1
      max_size       = 4
      taints         = {}
    }
    gpu = {
      ami_type       = "AL2023_x86_64_NVIDIA"
      capacity_type  = "SPOT"
      instance_types = var.gpu_instance_types
      disk_gib       = 100
      min_size       = 0
      max_size       = var.max_gpu_nodes
      taints         = { "nvidia.com/gpu" = "true", "photoark/spot" = "true" }
    }
  }
}

resource "aws_eks_addon" "this" {
  for_each             = local.addons
  cluster_name         = aws_eks_cluster.this.name
  addon_name           = each.key
  configuration_values = each.value
  # EKS starts with three of them, unmanaged.
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"
  # CoreDNS waits for a machine to run on.
  depends_on = [aws_eks_node_group.this]
}

resource "aws_launch_template" "node" {
  for_each    = local.pools
  name_prefix = "${var.name}-${each.key}-"

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # One hop: what runs in a pod of its own network does not reach the machine's role.
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = each.value.disk_gib
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }
}

resource "aws_eks_node_group" "this" {
  for_each        = local.pools
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = var.subnet_ids
  ami_type        = each.value.ami_type
  capacity_type   = each.value.capacity_type
  instance_types  = each.value.instance_types
  labels          = { "photoark/pool" = each.key }

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  scaling_config {
    desired_size = each.value.min_size
    min_size     = each.value.min_size
    max_size     = each.value.max_size
  }

  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.key
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }

  lifecycle {
    # The autoscaler's business from then on.
    ignore_changes = [scaling_config[0].desired_size]
  }
  depends_on = [aws_iam_role_policy_attachment.node]
}

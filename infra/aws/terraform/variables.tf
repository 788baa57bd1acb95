variable "name" {
  description = "Name of the cluster, and the first part of every other name."
  type        = string
  default     = "photoark"
}

variable "region" {
  description = "AWS region of bucket and cluster."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket to make; photos under originals/, the archive under archive/, restored files under restored/."
  type        = string
}

variable "noncurrent_days" {
  description = "Days for which what was deleted or replaced can still be had back."
  type        = number
  default     = 30
}

variable "subnet_ids" {
  description = "Private subnets, in two availability zones or more, with a way out: a NAT gateway, and a gateway endpoint for S3."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "EKS needs subnets in two availability zones at least."
  }
}

variable "api_cidrs" {
  description = "Networks from which the Kubernetes API may be reached from outside; none keeps it inside the VPC."
  type        = list(string)
  default     = []
}

variable "kubernetes_version" {
  description = "Version of EKS."
  type        = string
  default     = "1.34"
}

variable "gpu_instance_types" {
  description = "Machines with one GPU each that will do; the more kinds, the more often a spot one is free."
  type        = list(string)
  default     = ["g6.xlarge", "g5.xlarge", "g4dn.xlarge"]
}

variable "max_gpu_nodes" {
  description = "GPU machines at most; none when nothing runs."
  type        = number
  default     = 8
}

variable "ssh_cidrs" {
  description = "Networks from which machines of Ray's cluster launcher may be reached by SSH; none if the launcher is not used."
  type        = list(string)
  default     = []
}

output "originals" {
  description = "Where the photos go."
  value       = "s3://${aws_s3_bucket.photos.bucket}/originals"
}

output "archive" {
  description = "Where the archive is."
  value       = "s3://${aws_s3_bucket.photos.bucket}/archive"
}

output "cluster" {
  description = "For aws eks update-kubeconfig --name."
  value       = aws_eks_cluster.this.name
}

output "launcher_security_group" {
  description = "SecurityGroupIds of infra/aws/ray-cluster.yaml."
  value       = aws_security_group.launcher.id
}

output "launcher_profiles" {
  description = "IamInstanceProfile of the head and of the workers of infra/aws/ray-cluster.yaml."
  value       = { for node, profile in aws_iam_instance_profile.launcher : node => profile.name }
}

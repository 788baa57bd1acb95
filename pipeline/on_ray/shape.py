"""What the cluster that Ray is connected to has."""

from __future__ import annotations

from collections import Counter

import ray

from pipeline.on_ray.resources import ClusterShape, NodeKind


def read_shape() -> ClusterShape:
    """Machines that are alive, by kind."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    here = Counter((node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in alive)
    return ClusterShape(
        kinds=tuple(NodeKind(num_cpus=cpus, num_gpus=gpus, number=number) for (cpus, gpus), number in sorted(here.items()))
    )

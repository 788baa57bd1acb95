"""`photoark serve` on a cluster: replicas of the same HTTP application behind Ray Serve, as many as there are requests for.

serve run cluster.serving:build archive=s3://bucket/archive max_replicas=8
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from pipeline.codecs.neural.runtime import Runtime
from pipeline.codecs.registry import CodecOptions
from pipeline.serving.http_app import PhotoServer, ServingOptions, http_app

_GRACE_S = 60
"""For answers that are on their way when a replica is told to end."""


class ServingArguments(BaseModel):
    """What `build` may be told, also as words of a command line."""

    model_config = ConfigDict(extra="forbid")

    archive: str
    """Its URL; every machine must reach it."""
    min_replicas: int = Field(1, ge=0)
    """0 gives up the last GPU while nobody asks; whoever asks next waits for a machine."""
    max_replicas: int = Field(1, ge=1)
    gpus_per_replica: float = Field(1.0, ge=0)
    """0: on CPUs. Below 1 several replicas share a GPU."""
    cpus_per_replica: float = Field(1.0, gt=0)
    """As Ray counts; without GPUs the codec has so many threads."""
    max_requests: int = Field(32, ge=1)
    """That one replica takes on at once. As many again may wait for all of them together; more are sent away with 503."""
    target_requests: int = Field(8, ge=1)
    """At once at each replica, on average, before there is another: what waits together is decoded together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    weights: Path | None = None
    """Frozen checkpoint of a neural codec, where every machine finds it; None for the one that comes with the package."""


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application, for `serve run`, `serve deploy` and RayService.

    Args:
        arguments: those of `ServingArguments`.
    """
    args = ServingArguments.model_validate(arguments)
    options = CodecOptions(device=args.device, weights=args.weights, runtime=Runtime(dtype=args.precision))
    serving = ServingOptions(max_requests=args.max_requests)

    def app() -> FastAPI:
        server = PhotoServer(args.archive, options)
        # Ray sends requests to a replica as soon as it is made.
        server.decoding.wait_until_loaded()
        return http_app(server, serving)

    deployment = serve.deployment(
        name="photos",
        ray_actor_options={"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica},
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.target_requests,
        },
        max_ongoing_requests=args.max_requests,
        max_queued_requests=args.max_requests,
        graceful_shutdown_timeout_s=_GRACE_S,
    )
    return deployment(serve.ingress(app)()).bind()

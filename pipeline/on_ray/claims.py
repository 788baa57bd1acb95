"""An actor that decides which of several photos of the same bytes is encoded. Tried on Ray 2.60."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class _Claims:
    def __init__(self, holders: Mapping[str, str]) -> None:
        self._keys = dict(holders)

    def claim(self, photos: Sequence[tuple[str, str]]) -> list[str]:
        return [self._keys.setdefault(sha256, key) for sha256, key in photos]


def start_claims(holders: Mapping[str, str]) -> Callable[[Sequence[tuple[str, str]]], list[str]]:
    """Start the actor beside the driver; it lives as long as anything holds the function that is returned.

    The function takes (SHA-256, key) of photos that were read, and returns for each the key of the photo to encode: the
    first that was read with these bytes, which may be itself, also when it asks again.

    Args:
        holders: what the archive holds already, SHA-256 -> key.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return _Asking(ray.remote(_Claims).options(**options).remote(holders))


class _Asking:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, photos: Sequence[tuple[str, str]]) -> list[str]:
        keys: list[str] = ray.get(self._actor.claim.remote(list(photos)))
        return keys

"""Damage as chance and malice do it: seeded, so that what once broke something breaks it again."""

from __future__ import annotations

import random

_TELLING = (0, 1, 0x7F, 0x80, 0xFF)
"""Bytes at the edges of numbers."""


def mutated(data: bytes, rng: random.Random, *, start: int = 0) -> bytes:
    """`data` with one to eight faults behind `start`: bits, bytes and numbers changed, pieces lost, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if len(out) <= start + 4:
            break
        # Headers are where it hurts: half of the faults go there.
        end = min(len(out), start + 200) if rng.random() < 0.5 else len(out)
        at = rng.randrange(start, end)
        length = rng.choice((1, 2, 4, 16, 100))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            out[at : at + 4] = bytes([rng.choice(_TELLING)]) * 4
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        elif kind == 5:
            piece = bytes(out[at : at + length])
            other = rng.randrange(start, len(out))
            out[other : other + length] = piece
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)

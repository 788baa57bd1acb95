"""The library: what happens to a photo. Its public door is `photoark`."""

from pipeline.openmp import wait_passively

# Here, since every process that loads torch for us imports this package first, and torch reads the setting only then.
wait_passively()

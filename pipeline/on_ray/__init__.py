"""Everything that touches Ray's internals: pools, isolation of what ends its process, limits, telemetry."""

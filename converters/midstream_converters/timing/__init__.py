"""What each layer takes on this machine: told by the runtime's profiler, or by the differences between slices."""

from midstream_converters.timing.layers import time_layers

__all__ = ["time_layers"]

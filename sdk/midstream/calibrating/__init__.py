"""Measuring the codec ladder of a bundle on inputs of the user's."""

from midstream.calibrating.calibrate import Calibration, calibrate, pareto

__all__ = ["Calibration", "calibrate", "pareto"]

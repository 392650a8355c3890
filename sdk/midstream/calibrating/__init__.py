"""Measuring the codec ladder of a bundle on inputs of the user's."""

from midstream.calibrating.calibrate import Calibration, calibrate, pareto
from midstream.calibrating.files import write_ladder
from midstream.calibrating.inputs import MAX_INPUTS, read_inputs

__all__ = ["MAX_INPUTS", "Calibration", "calibrate", "pareto", "read_inputs", "write_ladder"]

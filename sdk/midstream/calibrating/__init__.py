"""Measuring the codec ladder of a bundle on inputs of the user's."""

from midstream.calibrating.calibrate import Calibration, calibrate, pareto
from midstream.calibrating.files import check_ladder_target, write_ladder
from midstream.calibrating.inputs import MAX_INPUTS, read_inputs

__all__ = ["MAX_INPUTS", "Calibration", "calibrate", "check_ladder_target", "pareto", "read_inputs", "write_ladder"]

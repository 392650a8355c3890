"""Measuring a bundle on inputs of the user's: its codec ladder, and its early exit."""

from midstream.calibrating.calibrate import Calibration, calibrate, pareto
from midstream.calibrating.exits import DEFAULT_TARGET, MAX_EXIT_INPUTS, LearnedExit, TriedExit, learn_exit
from midstream.calibrating.files import (
    check_exit_target,
    check_ladder_target,
    remove_exit,
    write_exit,
    write_ladder,
)
from midstream.calibrating.inputs import MAX_INPUTS, read_inputs

__all__ = [
    "DEFAULT_TARGET",
    "MAX_EXIT_INPUTS",
    "MAX_INPUTS",
    "Calibration",
    "LearnedExit",
    "TriedExit",
    "calibrate",
    "check_exit_target",
    "check_ladder_target",
    "learn_exit",
    "pareto",
    "read_inputs",
    "remove_exit",
    "write_exit",
    "write_ladder",
]

"""How complex an input is: a feature vector and a score of 0–100. All of it is pure, over arrays."""

from midstream.analysis.analyze import Analysis, Kind, analyze
from midstream.analysis.whole import analyze_inputs

__all__ = ["Analysis", "Kind", "analyze", "analyze_inputs"]

"""How complex an input is: a feature vector and a score of 0–100. All of it is pure, over arrays."""

from midstream.analysis.analyze import Analysis, Kind, analyze, analyze_image, analyze_sound
from midstream.analysis.stream import ImageStream
from midstream.analysis.whole import analyze_inputs

__all__ = ["Analysis", "ImageStream", "Kind", "analyze", "analyze_image", "analyze_inputs", "analyze_sound"]

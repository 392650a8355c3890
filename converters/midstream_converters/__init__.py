"""Converters: a trained model in, a bundle of proven slices out; runs ahead of time, never on the board."""

from __future__ import annotations

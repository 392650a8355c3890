"""Every feature there is: its unit, and the range it has or, where it has no end, usually stays in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """Unit, "" for a plain number or share, and range; ``bounded`` where no value lies beyond it."""

    unit: str
    low: float
    high: float
    bounded: bool = True


_SHARE = Feature("", 0.0, 1.0)
_BITS = Feature("bit", 0.0, 8.0)
_COEFFICIENT, _DEVIATION = Feature("dB", -100.0, 100.0, bounded=False), Feature("dB", 0.0, 50.0, bounded=False)

IMAGE: dict[str, Feature] = {
    "entropy": _BITS,
    "edge_density": _SHARE,
    "step_density": _SHARE,
    "gradient_mean": Feature("level/px", 0.0, 50.0, bounded=False),
    "laplacian_variance": Feature("level²", 0.0, 5000.0, bounded=False),
    "spatial_frequency": Feature("level", 0.0, 361.0),
    "entropy_red": _BITS,
    "entropy_green": _BITS,
    "entropy_blue": _BITS,
    "colourfulness": Feature("", 0.0, 298.0),
    "motion": Feature("level", 0.0, 255.0),
}
AUDIO: dict[str, Feature] = {
    "snr_db": Feature("dB", -20.0, 100.0),
    "spectral_entropy": _SHARE,
    "spectral_flatness": _SHARE,
    "zero_crossing_rate": _SHARE,
    "log_mel_mean_db": Feature("dB", -100.0, 60.0, bounded=False),
    "log_mel_std_db": Feature("dB", 0.0, 50.0, bounded=False),
    **{f"mfcc_{order}_mean": _COEFFICIENT for order in range(1, 7)},
    **{f"mfcc_{order}_std": _DEVIATION for order in range(1, 7)},
    "onset_density": Feature("1/s", 0.0, 20.0, bounded=False),
    "voice_activity": _SHARE,
    "rms_db": Feature("dB", -120.0, 0.0),
    "clipping_share": _SHARE,
}
TENSOR: dict[str, Feature] = {
    "elements": Feature("", 1.0, 1e6, bounded=False),
    "length": Feature("", 1.0, 1e4, bounded=False),
    "sparsity": _SHARE,
    "entropy": _BITS,
    "std": Feature("its own", 0.0, 1.0, bounded=False),
}

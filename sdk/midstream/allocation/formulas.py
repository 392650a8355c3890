"""Queueing formulas: how long requests wait for one of some workers, in the steady state and from a queue as it is.

Rates are per second, times in seconds, ``cv2`` is the squared coefficient of variation of the service time. All are for
Poisson arrivals that are served as they come.
"""

from __future__ import annotations

import math

# A window is looked at in so many moments.
_MOMENTS = 16
# Beyond so many standard deviations Mills' ratio is taken by its series.
_FAR = 8.0
_SQRT_2 = math.sqrt(2)
_SQRT_2_PI = math.sqrt(2 * math.pi)
# What varies by less than this share of its way moves as a fluid does.
_LEAST_SPREAD = 1e-9
# Nearer to 0 than this, a drift counts as this: the formulas divide by it.
_LEAST_DRIFT = 1e-6


def erlang_c(workers: int, offered: float) -> float:
    """The probability that a request must wait, 1 where the load is too much; ``offered`` is rate × service time.

    From Erlang's B by the recurrence 1/B(k) = 1 + (k/a)/B(k-1), and C = B / (1 - ρ (1 - B)) (Cooper, Introduction to
    Queueing Theory, 2nd ed., 1981, chapter 3).
    """
    if offered <= 0:
        return 0.0
    if offered >= workers:
        return 1.0
    inverse = 1.0
    for k in range(1, workers + 1):
        inverse = 1 + k / offered * inverse
        if inverse > 1e300:
            return 0.0
    blocked = 1 / inverse
    return blocked / (1 - offered / workers * (1 - blocked))


def mmk_wait_s(workers: int, rate_hz: float, service_s: float) -> float:
    """Mean wait of M/M/k in the steady state, infinite where there is none: C(k, a) s / (k - a)."""
    offered = rate_hz * service_s
    if offered >= workers:
        return math.inf
    return erlang_c(workers, offered) * service_s / (workers - offered)


def mgk_wait_s(workers: int, rate_hz: float, service_s: float, cv2: float) -> float:
    """Mean wait of M/G/k in the steady state, infinite where there is none.

    Up to c² = 1 it lies between M/D/k and M/M/k: c² W(M/M/k) + (1 - c²) W(M/D/k) (Page, Queueing Theory in OR, 1972);
    beyond it is (1 + c²)/2 W(M/M/k) (Lee and Longton, 1959, whom Allen and Cunneen follow). For one worker both are
    Pollaczek's and Khinchine's.
    """
    exponential = mmk_wait_s(workers, rate_hz, service_s)
    if cv2 >= 1 or not 0 < exponential < math.inf:
        return exponential * (1 + cv2) / 2 if exponential else 0.0
    return exponential * (cv2 + (1 - cv2) * mdk_ratio(workers, rate_hz * service_s / workers))


def mdk_ratio(workers: int, utilisation: float) -> float:
    """M/D/k's mean wait as a share of M/M/k's, where 0 < utilisation < 1.

    ½ (1 + (1 - ρ)(k - 1)(√(4 + 5k) - 2) / (16 ρ k)) (Cosmetatos, Operational Research Quarterly 27, 1976), whose
    addend is limited, for low loads, to k's own limit (k - 1)/(k + 1) (Kimura, Queueing Systems 22, 1996).
    """
    added = (1 - utilisation) * (workers - 1) * (math.sqrt(4 + 5 * workers) - 2) / (16 * utilisation * workers)
    return 0.5 * (1 + min(added, (workers - 1) / (workers + 1)))


def wait_after_s(start_s: float, after_s: float, workers: int, rate_hz: float, service_s: float, cv2: float) -> float:
    """Mean wait of a request that comes ``after_s`` from now, where one that came now would wait ``start_s``.

    The work ahead of a request is taken for a Brownian motion that is reflected at 0, with the drift ρ - 1 and the
    variance λ s² (1 + c²) / k² of the work that comes (Harrison, Brownian Motion and Stochastic Flow Systems, 1985).
    Its mean starts at ``start_s``, falls or grows as the load has it, and ends, for one worker, at exactly Pollaczek's
    and Khinchine's wait; for more of them what is not the fluid's is scaled to M/G/k's wait. It holds for any load.
    """
    offered = rate_hz * service_s
    drift = offered / workers - 1
    fluid_s = max(0.0, start_s + drift * after_s)
    variance = rate_hz * service_s * service_s * (1 + cv2) / (workers * workers)
    if variance <= 0 or after_s <= 0:
        return fluid_s
    mean_s = reflected_mean(start_s, drift, variance, after_s)
    scale = 1.0
    if workers > 1:
        # In overload, as near to it.
        rate_hz = min(rate_hz, 0.99 * workers / service_s)
        steady_s = rate_hz * service_s * service_s * (1 + cv2) / (2 * workers * (workers - rate_hz * service_s))
        scale = mgk_wait_s(workers, rate_hz, service_s, cv2) / steady_s
    return fluid_s + scale * (mean_s - fluid_s)


def mean_wait_s(start_s: float, length_s: float, workers: int, rate_hz: float, service_s: float, cv2: float) -> float:
    """The mean of `wait_after_s` over the window that begins now, for those who come in it."""
    step_s = length_s / _MOMENTS
    return (
        sum(
            wait_after_s(start_s, (moment + 0.5) * step_s, workers, rate_hz, service_s, cv2)
            for moment in range(_MOMENTS)
        )
        / _MOMENTS
    )


def reflected_mean(start: float, drift: float, variance: float, after: float) -> float:
    """The mean of a Brownian motion from ``start``, reflected at 0, after this time; of this drift and variance a unit.

    It is start + drift t + E L(t), where L is what the reflection adds: how far the free motion has been below 0, whose
    distribution is the inverse Gaussian one's (Harrison, 1985, 1.8); integrated, with θ = -drift and s² = variance t:
    E L = s φ(z) + (θt - x + σ²/2θ) Φ(z) - (σ²/2θ) e^(2θx/σ²) Φ(-(x + θt)/s), z = (θt - x)/s.
    """
    theta = -drift
    if abs(theta) < _LEAST_DRIFT:
        theta = math.copysign(_LEAST_DRIFT, theta)
    s = math.sqrt(variance * after)
    if s <= _LEAST_SPREAD * (start + abs(theta) * after):
        return max(0.0, start + drift * after)
    z = (theta * after - start) / s
    far = (start + theta * after) / s
    length = variance / (2 * theta)
    density = math.exp(-z * z / 2) / _SQRT_2_PI
    if far > _FAR:
        # Both factors run out of range, their product does not.
        inverse = 1 / (far * far)
        scaled = density / far * (1 - inverse + 3 * inverse * inverse)
    else:
        scaled = math.exp(2 * theta * start / variance) * _below(-far)
    added = s * density + (s * z + length) * _below(z) - length * scaled
    return start - theta * after + max(0.0, added)


def _below(z: float) -> float:
    """The probability that a standard normal number is less."""
    return 0.5 * math.erfc(-z / _SQRT_2)

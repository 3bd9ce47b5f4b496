"""From diffusion time to flow time: the same noise level seen from two sides.

A variance preserving sample and a flow matching sample of the same x0 and eps differ by a factor
only (eq. 7 and 8 of the paper), because their ratio of signal to noise is the same when

    sigma_ve = sigma / alpha = (1 - t) / t          t = alpha / (alpha + sigma) = 1 / (1 + sigma_ve)

    x_fm = t x0 + (1 - t) eps = x_dm / (alpha + sigma)
    x_dm = alpha x0 + sigma eps = x_fm / sqrt(t^2 + (1 - t)^2)

since alpha + sigma = 1 / sqrt(t^2 + (1 - t)^2) for alpha^2 + sigma^2 = 1.
"""

from .coordinate import Number, hypot, log, sigmoid


def flow_time_of_log_sigma(log_sigma: Number) -> Number:
    """``t = 1 / (1 + sigma_ve)`` of ``log sigma_ve``."""
    return sigmoid(-log_sigma)


def log_sigma_of_flow_time(t: Number) -> Number:
    """``log sigma_ve = log((1 - t) / t)``; +inf at t = 0 and -inf at t = 1."""
    return log(1 - t) - log(t)


def interpolant_norm(t: Number) -> Number:
    """``sqrt(t^2 + (1 - t)^2)``: the factor from x_dm to x_fm, between 0.707 and 1."""
    return hypot(t, 1 - t)


def vp_coefficients(t: Number) -> tuple[Number, Number]:
    """``alpha, sigma`` of the diffusion sample with the noise level of flow time t."""
    norm = interpolant_norm(t)
    return t / norm, (1 - t) / norm

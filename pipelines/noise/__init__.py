"""The one place where randomness comes from.

Reading guide
    tables      inversion tables at 2^-128, with their distance to the ideal
    sampler     discrete Gaussian and Laplace of any scale, composed of tables
    keyed       the keyed function that gives each draw its uniform words
"""

from pipelines.noise.keyed import BLOCK_BYTES, KeyedNoise, NoiseSource, ReleaseKey, ZeroNoise
from pipelines.noise.sampler import Distribution, discrete_gaussian, discrete_laplace, gaussian_tail_probability

__all__ = [
    "BLOCK_BYTES",
    "Distribution",
    "KeyedNoise",
    "NoiseSource",
    "ReleaseKey",
    "ZeroNoise",
    "discrete_gaussian",
    "discrete_laplace",
    "gaussian_tail_probability",
]

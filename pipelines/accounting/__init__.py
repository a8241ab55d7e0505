"""Accounting: what noise of a given scale proves in (epsilon, delta), as tightly as is known, and how much noise a
promise needs. Pure functions of numbers; nothing here reads a definition or data.

Reading guide
    gaussian     the continuous Gaussian, exactly (Balle and Wang 2018): `gaussian_delta`, `_epsilon`, `_mu`
    events       mechanisms as data: `GaussianEvent`, `LaplaceEvent`, `ApproximateEvent`
    lattice      the discrete Gaussian over many sums, with proof: `events_delta`, `events_epsilon`,
                 `least_noise_factor`
    selection    private selection: why delta need not be split; `released_epsilon`, `combined_epsilon`
    plans        plans fixed in advance, Laplace noise among them, by PLD: `plan_epsilon`, `laplace_epsilon`

Which to call
    noise for (epsilon, delta)       sigma of each sum up to a common factor (the budget's split) as `GaussianEvent`s,
                                     then `least_noise_factor(events, epsilon, delta)`: multiply every sigma by it
    the same with private selection  no split: the noise takes the whole delta, and so may the threshold
                                     (`selection`'s theorem); `released_delta` says what both together prove
    epsilon of one release           `released_epsilon`: theorem, whatever the scales
    epsilon of an account            `combined_epsilon(rho, delta_selection, delta)`: holds for adaptive choices
    epsilon of a fixed plan          `plan_epsilon`: tighter, holds only if nothing was chosen after seeing a release

Neighbors are those of the sensitivities given; all results are upper bounds on epsilon or delta, rounding included
(`plan_epsilon` and `laplace_epsilon` up to dp_accounting's own floating-point error).
"""

from pipelines.accounting.events import ApproximateEvent, GaussianEvent, LaplaceEvent, PrivacyEvent
from pipelines.accounting.gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu
from pipelines.accounting.lattice import events_delta, events_epsilon, least_noise_factor, total_rho
from pipelines.accounting.plans import laplace_epsilon, plan_epsilon
from pipelines.accounting.selection import combined_epsilon, key_delta, released_delta, released_epsilon

__all__ = [
    "ApproximateEvent",
    "GaussianEvent",
    "LaplaceEvent",
    "PrivacyEvent",
    "combined_epsilon",
    "events_delta",
    "events_epsilon",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "key_delta",
    "laplace_epsilon",
    "least_noise_factor",
    "plan_epsilon",
    "released_delta",
    "released_epsilon",
    "total_rho",
]

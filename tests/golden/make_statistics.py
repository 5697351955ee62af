# SPDX-License-Identifier: Apache-2.0
"""Writes statistics.json: scipy's percentile bootstrap interval of a mean, paired permutation test
and Wilson interval, on a hundred times the default number of resamples, with the Monte-Carlo error
that 2,000 or 9,999 of them leave.
"""

import numpy
from scipy import stats

import golden_file
import tiny_models

# name, pairs, shift of their differences, decimals they are rounded to (ties and zeros)
CASES = (
    ("clear", 60, 0.35, 6),
    ("borderline", 40, 0.42, 6),
    ("none", 80, 0.0, 6),
    ("grades", 50, 0.12, 0),
    ("few", 12, 0.5, 2),
)
RESAMPLES = 200_000


def mean(values, axis):
    return numpy.mean(values, axis=axis)


def differences(name, count, shift, decimals):
    noise = tiny_models.uniform(f"differences {name}", count).astype("float64")
    other = tiny_models.uniform(f"more of {name}", count).astype("float64")
    return (shift + noise + 0.5 * other).round(decimals)


def interval(values, resamples, seed):
    found = stats.bootstrap(
        (values,), mean, method="percentile", n_resamples=resamples, batch=1000,
        rng=numpy.random.default_rng(seed),
    )
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def case(settings):
    values = differences(*settings)
    flips = stats.permutation_test(
        (values,), mean, permutation_type="samples", n_resamples=RESAMPLES, batch=1000,
        rng=numpy.random.default_rng(1),
    )
    small = numpy.array([interval(values, 2000, seed) for seed in range(40)])
    return {
        "name": settings[0],
        "differences": golden_file.digits(values, 17),
        "interval": interval(values, RESAMPLES, 1),
        "interval_error": golden_file.digits(small.std(axis=0, ddof=1), 4),
        "p": float(flips.pvalue),
        "effect_size": float(values.mean() / values.std(ddof=1)),
    }


def wilson(successes, trials):
    found = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return {
        "successes": successes,
        "trials": trials,
        "interval": [float(found.low), float(found.high)],
    }


def main():
    golden_file.write(
        "statistics.json",
        ["numpy", "scipy"],
        {
            "cases": [case(settings) for settings in CASES],
            "wilson": [wilson(*pair) for pair in ((0, 30), (3, 40), (25, 25), (300, 2400))],
        },
    )


if __name__ == "__main__":
    main()

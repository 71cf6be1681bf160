"""How sure a score is, and whether two runs differ. Whole images are resampled: their questions go together."""

import numpy as np
from scipy import stats

RESAMPLES = 2000
MIN_IMAGES = 10  # fewer tell little about others
# Where little varies, bootstrap intervals are too narrow: in a simulation, those of 50 images with one question each
# held a true accuracy of 99 % in 43 % of the cases.
ENOUGH = 30  # right or wrong answers, about; of fewer, the interval is Wilson's at least
_ROWS = 200  # resamples drawn at a time, so that memory does not grow with their number


def bootstrap_interval(values, images, resamples=RESAMPLES, level=0.95, seed=0):
    """
    Percentile bootstrap of a mean over clusters (Davison & Hinkley, Bootstrap Methods, 1997, section 3.8): whole
    images are drawn with replacement, with all their questions.

    Args:
        values: `(questions,)` numbers.
        images: `(questions,)`, the image of each question.
        resamples (`int`), level (`float`), seed (`int`)

    Returns:
        `(low, high)`: the interval of the mean; None of fewer than `MIN_IMAGES` images, by Kish's effective number,
        which is smaller where a few images have most of the questions.

    Raises:
        ValueError: no values, or lists of unequal length.
    """
    totals, counts = _by_image(values, images)
    if counts.sum() ** 2 < MIN_IMAGES * (counts**2).sum():
        return None
    rng, draws = np.random.default_rng(seed), len(totals)
    means = []
    for at in range(0, resamples, _ROWS):
        times = rng.multinomial(draws, np.full(draws, 1 / draws), size=min(_ROWS, resamples - at))
        means.append(times @ totals / (times @ counts))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def accuracy_interval(values, images):
    """
    [`bootstrap_interval`] of accuracies, widened near 0 and 100 % and where there are few, to hold Wilson's interval
    (Brown, Cai & DasGupta, Interval Estimation for a Binomial Proportion, 2001), with as many questions as would vary
    as these do if each stood for itself.

    Args:
        values: `(questions,)` accuracies in percent.
        images: `(questions,)`, the image of each question.

    Returns:
        `(low, high)` in percent, or None.
    """
    interval = bootstrap_interval(values, images)
    if interval is None:
        return None
    totals, counts = _by_image(values, images)
    draws, questions = len(totals), counts.sum()
    mean = totals.sum() / questions / 100
    spread = ((totals / 100 - mean * counts) ** 2).sum() / questions**2 * draws / (draws - 1)  # variance of the mean
    effective = min(mean * (1 - mean) / spread, questions) if spread > 0 else draws
    if effective * min(mean, 1 - mean) >= ENOUGH:
        return interval
    quantile = stats.t.ppf(0.975, draws - 1) ** 2 / effective
    centre = (mean + quantile / 2) / (1 + quantile)
    reach = np.sqrt(quantile * (mean * (1 - mean) + quantile / 4)) / (1 + quantile)
    return min(interval[0], 100 * (centre - reach)), max(interval[1], 100 * (centre + reach))


def rounded(interval):
    """An interval as it is written to files: `[low, high]` to two places, or None."""
    return interval and [round(float(edge), 2) for edge in interval]


def paired_difference(values, others, images, resamples=RESAMPLES, seed=0):
    """
    Whether run A scores higher than run B on the same questions.

    Args:
        values, others: `(questions,)` numbers, of A and of B.
        images: `(questions,)`, the image of each question.

    Returns:
        dict: `difference`, mean of A minus mean of B; `interval`, its 95 % bootstrap interval; `p_value`, two-sided,
        of a randomisation test that swaps A and B for whole images (Noreen, Computer-Intensive Methods, 1989), with
        the observed order counted as one, so that it is never 0.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(others, dtype=float)
    totals, counts = _by_image(differences, images)
    observed = abs(totals.sum())
    rng, as_large = np.random.default_rng(seed), 0
    for at in range(0, resamples, _ROWS):
        signs = rng.choice((-1.0, 1.0), size=(min(_ROWS, resamples - at), len(totals)))
        as_large += int((abs(signs @ totals) >= observed - 1e-9).sum())
    return {
        "difference": float(totals.sum() / counts.sum()),
        "interval": bootstrap_interval(differences, images, resamples, seed=seed),
        "p_value": (as_large + 1) / (resamples + 1),
    }


def p_text(p_value, resamples=RESAMPLES):
    """`"= 0.0123"`; `"≤ 0.0005"` of the smallest that so many resamples can tell."""
    return f"{'≤' if p_value * (resamples + 1) < 1.5 else '='} {p_value:.4f}"


def _by_image(values, images):
    """Sum of the values, and how many there are, of every image."""
    values = np.asarray(values, dtype=float)
    if not len(values) or len(values) != len(images):
        raise ValueError(f"{len(values)} values of {len(images)} questions")
    _, position = np.unique(np.asarray(images).astype(str), return_inverse=True)
    return np.bincount(position, weights=values), np.bincount(position).astype(float)

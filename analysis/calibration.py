"""Whether the model's probabilities mean what they say, and what it gains by not answering when it is not sure."""

from hashlib import md5

import numpy as np
import torch

RISKS = (1, 5, 10)  # percent
BINS = 15
TEMPERATURES = 0.05, 20.0  # between which one is looked for


def reliability(confidence, accuracy, bins=BINS):
    """
    Args:
        confidence: `(questions,)` probability of each given answer.
        accuracy: `(questions,)` its score, 0 to 1.
        bins (`int`): of equal width.

    Returns:
        list of dicts `low`, `high`, `questions`, `confidence`, `accuracy` (means), one for each bin that is not empty.
    """
    confidence, accuracy = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    place = _bin_of(confidence, bins)
    return [
        {
            "low": number / bins, "high": (number + 1) / bins, "questions": int(inside.sum()),
            "confidence": float(confidence[inside].mean()), "accuracy": float(accuracy[inside].mean()),
        }
        for number in range(bins)
        if (inside := place == number).any()
    ]  # fmt: skip


def expected_calibration_error(confidence, accuracy, bins=BINS):
    """
    Mean distance between confidence and accuracy over bins of equal width, weighted by their questions (Guo et al.,
    On Calibration of Modern Neural Networks, ICML 2017, equation 3), 0 to 1.
    """
    rows = reliability(confidence, accuracy, bins)
    return sum(row["questions"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(confidence)


def _bin_of(confidence, bins=BINS):
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (low, high], as Guo et al. have them


def error_by_chance(confidence, draws=200, seed=0):
    """
    The expected calibration error, 0 to 1, to be expected of so many answers where every probability is just right,
    which is not 0: chance moves the accuracy of each bin. Of answers that are right or wrong; scores between vary less.
    """
    confidence = np.asarray(confidence, dtype=float)
    rng, place = np.random.default_rng(seed), _bin_of(confidence)
    gaps = [np.bincount(place, (rng.random(len(place)) < confidence) - confidence) for _ in range(draws)]
    return float(np.abs(gaps).sum(axis=1).mean() / len(place))


def error_difference(confidence, others, accuracy, images, resamples=1000, seed=0):
    """
    By how much the expected calibration error of `confidence` is larger than that of `others`, on the same questions.

    Args:
        confidence, others: `(questions,)` probabilities.
        accuracy: `(questions,)`, 0 to 1.
        images: `(questions,)`, the image of each question; whole images are resampled.

    Returns:
        `(low, high)`, the 95 % percentile bootstrap interval of the difference.
    """
    names, image = np.unique(np.asarray(images).astype(str), return_inverse=True)
    draws = len(names)
    times = np.random.default_rng(seed).multinomial(draws, np.full(draws, 1 / draws), resamples)
    errors = []
    for given in (confidence, others):
        gaps = np.zeros((draws, BINS))
        np.add.at(gaps, (image, _bin_of(given)), np.asarray(given) - accuracy)
        errors.append(np.abs(times @ gaps).sum(axis=1) / (times @ np.bincount(image)))
    return tuple(np.percentile(errors[0] - errors[1], [2.5, 97.5]).tolist())


def fit_temperature(logits, accuracy, probabilities):
    """
    The one number that divides the logits so that the probability of the answer given is how often it is right: it
    minimises their binary cross-entropy. Guo et al. (2017), section 4.2, minimise the likelihood of all classes; with
    a sigmoid over 1,000 answers that would be about the 999 answers that are not given.

    Args:
        logits: `(questions, answers)` tensor.
        accuracy: `(questions,)` score of each question's best answer, 0 to 1.
        probabilities: from logits to probabilities at temperature 1.

    Returns:
        `float`, within `TEMPERATURES`.
    """
    logits, accuracy = logits.double(), torch.as_tensor(accuracy, dtype=torch.float64)

    def loss(exponent):
        confidence = probabilities(logits / exponent.exp()).amax(dim=-1).clamp(1e-12, 1 - 1e-12)
        return torch.nn.functional.binary_cross_entropy(confidence, accuracy)

    # From the best of a few, since there is no gradient where all probabilities are 0 or 1.
    tried = torch.linspace(*np.log(TEMPERATURES), 13, dtype=torch.float64)
    with torch.no_grad():
        exponent = min(tried, key=loss).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([exponent], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(exponent)
        value.backward()
        return value

    optimizer.step(step)
    return float(exponent.detach().exp().clamp(*TEMPERATURES))


def in_first_half(image_ids):
    """`(questions,)` booleans: the images on which something is fitted; what is reported comes from the others."""
    return np.array([md5(str(image_id).encode()).digest()[0] % 2 == 0 for image_id in image_ids])


def risk_coverage(confidence, accuracy):
    """
    What is lost when only the surest questions are answered.

    Returns:
        `(coverage, risk)`, two `(questions,)` arrays, 0 to 1: of the k surest questions, their share of all and their
        mean error. Questions of equal confidence are answered together: they have the same coverage and risk.
    """
    confidence, accuracy = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    order = np.argsort(-confidence, kind="stable")
    risk = np.cumsum(1 - accuracy[order]) / np.arange(1, len(order) + 1)
    last = np.searchsorted(-confidence[order], -confidence[order], side="right") - 1  # of those equally sure
    return (last + 1) / len(order), risk[last]


def area_under_risk_coverage(confidence, accuracy):
    """Mean risk over all coverages, 0 to 1; of questions of equal confidence, the mean over all their orders."""
    _, place, counts = np.unique(-np.asarray(confidence, dtype=float), return_inverse=True, return_counts=True)
    error = np.repeat(np.bincount(place, 1 - np.asarray(accuracy, dtype=float)) / counts, counts)
    return float((np.cumsum(error) / np.arange(1, len(error) + 1)).mean())


def coverage_at_risk(coverage, risk, most):
    """Of [`risk_coverage`]'s curve, the largest share of questions that can be answered at a risk of at most `most`."""
    return float(coverage[risk <= most + 1e-12].max(initial=0.0))


def effective_reliability(confidence, accuracy, threshold, cost=1.0):
    """
    Mean over all questions of: the score of an answer that is given, less `cost` if it scores 0; 0 where the model
    abstains (Whitehead et al., Reliable Visual Question Answering, ECCV 2022).

    Args:
        confidence, accuracy: `(questions,)`, 0 to 1.
        threshold (`float`): the model abstains below it.
        cost (`float`): of a wrong answer.
    """
    confidence, accuracy = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    value = np.where(accuracy > 0, accuracy, -cost)
    return float(np.where(confidence >= threshold, value, 0.0).mean())


def best_threshold(confidence, accuracy, cost=1.0):
    """The threshold of the highest effective reliability; infinite if every way to answer costs more than it gains."""
    confidence, accuracy = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    order = np.argsort(-confidence, kind="stable")
    gained = np.cumsum(np.where(accuracy > 0, accuracy, -cost)[order])
    last = np.flatnonzero(np.diff(confidence[order], append=-1))  # those equally sure are answered together
    best = last[gained[last] == gained[last].max()][-1]  # of equal ones that which answers most, as in their code
    return float(confidence[order][best]) if gained[best] > 0 else np.inf


def abstention(confidence, accuracy, image_ids):
    """
    What abstaining is worth: coverage at each risk of `RISKS` and the area under the risk–coverage curve on all
    questions, and effective reliability with the threshold chosen on one half of the images and used on the other.

    Returns:
        dict, shares in percent; a threshold of None means not to answer at all.
    """
    confidence, accuracy = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    coverage, risk = risk_coverage(confidence, accuracy)
    result = {
        "area_under_risk_coverage": round(100 * area_under_risk_coverage(confidence, accuracy), 2),
        "coverage_at_risk": {str(r): round(100 * coverage_at_risk(coverage, risk, r / 100), 2) for r in RISKS},
    }
    fit = in_first_half(image_ids)
    if fit.any() and not fit.all():
        threshold = best_threshold(confidence[fit], accuracy[fit])
        test = confidence[~fit], accuracy[~fit]
        result["effective_reliability"] = {
            "cost": 1, "threshold": threshold if np.isfinite(threshold) else None,
            "answering_all": round(100 * effective_reliability(*test, 0.0), 2),
            "with_threshold": round(100 * effective_reliability(*test, threshold), 2),
            "coverage": round(100 * float((test[0] >= threshold).mean()), 2),
        }  # fmt: skip
    return result

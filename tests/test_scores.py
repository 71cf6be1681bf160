"""Intervals and comparisons against theory, by simulation."""

import numpy as np
import pytest

from vqafusion.analysis.scores import (
    MIN_IMAGES,
    accuracy_interval,
    bootstrap_interval,
    p_text,
    paired_difference,
    rounded,
)


def simulate(rng, images=60, spread=0.3):
    """Questions of which those about one image score alike; their expected score is 0.5."""
    counts = rng.integers(1, 8, images)
    level = np.clip(0.5 + spread * rng.uniform(-1, 1, images), 0, 1)
    values = np.concatenate([rng.random(count) < p for count, p in zip(counts, level)]).astype(float)
    return values, np.repeat(np.arange(images), counts)


def test_intervals_cover_the_truth_at_the_nominal_rate():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(400):
        values, images = simulate(rng)
        low, high = bootstrap_interval(values, images, resamples=400, seed=trial)
        covered += low <= 0.5 <= high
    # 95 % of 400 with a standard deviation of 1.1 points; the percentile bootstrap is a little narrow at 60 images
    assert 0.91 <= covered / 400 <= 0.98


def test_intervals_over_questions_would_be_too_narrow():
    values, images = simulate(np.random.default_rng(1), images=200, spread=0.5)
    by_image = np.subtract(*bootstrap_interval(values, images)[::-1])
    by_question = np.subtract(*bootstrap_interval(values, np.arange(len(values)))[::-1])
    assert by_image > 1.2 * by_question


def test_an_interval_agrees_with_the_normal_one_where_that_holds():
    values = np.random.default_rng(2).normal(3, 1, 2000)
    low, high = bootstrap_interval(values, np.arange(2000))
    error = values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_every_question_counts_the_same():
    values, images = [1.0] * 90 + [0.0] * 10, [*np.repeat(np.arange(10), 9), *range(10, 20)]
    low, high = bootstrap_interval(values, images)
    assert 0.75 < low < 0.9 < high  # the mean over images is one half
    assert rounded((low, high)) == [round(low, 2), round(high, 2)] and rounded(None) is None


def test_a_perfect_score_of_a_few_does_not_make_a_perfect_predictor():
    assert bootstrap_interval([100.0] * 60, range(60)) == (100, 100)
    low, high = accuracy_interval([100.0] * 60, range(60))
    assert low == pytest.approx(94, abs=0.3) and high == 100  # as Clopper and Pearson's
    assert accuracy_interval([0.0] * 60, range(60)) == pytest.approx((0, 100 - low))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("each", [1, 6])
def test_intervals_of_accuracies_hold_the_truth_also_near_the_ends(share, each):
    rng, covered, images = np.random.default_rng(5), 0, np.repeat(np.arange(20), each)
    for _ in range(100):
        values = 100.0 * (rng.random(len(images)) < rng.beta(9 * share, 9 * (1 - share), 20)[images])
        low, high = accuracy_interval(values, images)
        covered += low <= 100 * share <= high
    assert covered >= 90


def test_where_much_varies_they_are_the_bootstraps():
    values, images = simulate(np.random.default_rng(6), images=200)
    assert accuracy_interval(100 * values, images) == bootstrap_interval(100 * values, images)


def test_few_images_tell_little_about_others():
    values, images = np.arange(20.0), np.repeat(np.arange(MIN_IMAGES), 2)
    assert bootstrap_interval(values, images) is not None
    assert bootstrap_interval(values[2:], images[2:]) is None
    assert paired_difference(values[2:], values[2:], images[2:])["interval"] is None


def test_images_that_have_most_of_the_questions_do_not_count_for_many():
    images = [*range(30), *[0] * 300]
    assert bootstrap_interval(np.arange(330.0), images) is None


def test_p_values_of_equal_systems_are_uniform():
    rng, p_values = np.random.default_rng(3), []
    for trial in range(300):
        counts, level = (
            rng.integers(1, 8, 60),
            rng.uniform(0.2, 0.8, 60),
        )  # both see the same images
        images = np.repeat(np.arange(60), counts)
        values, others = (rng.random((2, len(images))) < level[images]).astype(float)
        p_values.append(paired_difference(values, others, images, resamples=200, seed=trial)["p_value"])
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.4 < np.mean(p_values) < 0.6


def test_a_real_difference_is_found_and_has_its_sign():
    values, images = simulate(np.random.default_rng(4), images=200)
    result = paired_difference(values, np.zeros(len(values)), images)
    low, high = result["interval"]
    assert result["difference"] == pytest.approx(values.mean()) and low > 0 and low < result["difference"] < high
    assert result["p_value"] == pytest.approx(1 / 2001) and p_text(result["p_value"]) == "≤ 0.0005"
    assert p_text(2 / 2001) == "= 0.0010"
    assert paired_difference(values, values, images)["p_value"] == 1
    assert paired_difference(values, values - 0.25, images)["interval"] == pytest.approx((0.25, 0.25))


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="3 values of 2 questions"):
        bootstrap_interval([1, 2, 3], [1, 2])

"""Calibration and abstention against theory, and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from vqafusion.analysis.calibration import (
    TEMPERATURES,
    abstention,
    area_under_risk_coverage,
    best_threshold,
    coverage_at_risk,
    effective_reliability,
    error_by_chance,
    error_difference,
    expected_calibration_error,
    fit_temperature,
    in_first_half,
    reliability,
    risk_coverage,
)

shares = st.floats(0, 1, allow_nan=False)
runs = st.lists(st.tuples(shares, st.sampled_from([0, 0.3, 0.6, 0.9, 1])), min_size=1, max_size=40)


def overconfident(questions, temperature=2.5, seed=0):
    """Logits whose softmax is right at `temperature`, and whether the best answer is the true one."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(questions, 10, generator=generator)
    truth = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return temperature * logits, (logits.argmax(-1) == truth).double()


def test_the_reliability_diagram_is_scikit_learns():
    rng = np.random.default_rng(0)
    confidence = rng.random(2000)
    right = rng.random(2000) < confidence**2
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    rows = reliability(confidence, right)
    np.testing.assert_allclose([row["accuracy"] for row in rows], accuracy)
    np.testing.assert_allclose([row["confidence"] for row in rows], mean)
    weights = np.array([row["questions"] for row in rows]) / 2000
    assert expected_calibration_error(confidence, right) == pytest.approx((weights * abs(accuracy - mean)).sum())


def test_perfect_and_constant_confidence():
    assert expected_calibration_error([1.0] * 4, [1, 1, 1, 1]) == 0
    assert expected_calibration_error([1.0] * 4, [0, 0, 0, 0]) == 1
    assert expected_calibration_error([0.25] * 4, [1, 0, 0, 0]) == 0
    assert [(row["low"], row["high"]) for row in reliability([0.0, 1.0], [0, 1], 4)] == [(0, 0.25), (0.75, 1)]
    assert [row["high"] for row in reliability([0.25, 0.5], [0, 1], 4)] == [0.25, 0.5]


def test_the_temperature_is_found_and_lowers_the_error_on_data_it_was_not_fitted_on():
    def softmax(logits):
        return logits.softmax(-1)

    logits, right = overconfident(4000)
    found = fit_temperature(logits, right, softmax)
    assert found == pytest.approx(2.5, rel=0.1)
    other, other_right = overconfident(4000, seed=1)
    errors = [expected_calibration_error(softmax(other / t).amax(-1).numpy(), other_right) for t in (1, found)]
    assert errors[1] < 0.03 < errors[0]


def test_the_temperature_of_independent_answers():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6000, 1, generator=generator)
    right = (torch.rand(6000, generator=generator) < logits[:, 0].sigmoid()).double()
    assert fit_temperature(3 * logits, right, torch.sigmoid) == pytest.approx(3, rel=0.15)
    assert fit_temperature(logits.abs(), torch.ones(6000), torch.sigmoid) == 0.05  # no run has 0


def test_a_temperature_is_found_where_all_probabilities_are_0_or_1():
    logits = 120 * torch.eye(2).repeat(50, 1)
    right = torch.tensor([1.0] * 70 + [0.0] * 30)
    assert fit_temperature(logits, right, lambda scores: scores.softmax(dim=-1)) == TEMPERATURES[1]


def test_the_error_of_probabilities_that_are_just_right_is_not_0():
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    found = [expected_calibration_error(confidence, rng.random(300) < confidence) for _ in range(200)]
    assert error_by_chance(confidence) == pytest.approx(np.mean(found), rel=0.05) and np.mean(found) > 0.05
    assert error_by_chance([0.0, 1.0]) == 0


def test_a_difference_of_calibration_errors_is_told_where_there_is_one():
    rng = np.random.default_rng(1)
    confidence, images = rng.random(2000), np.repeat(np.arange(400), 5)
    right = rng.random(2000) < confidence
    low, high = error_difference(confidence**2, confidence, right, images)
    assert 0.05 < low < high
    assert error_difference(confidence, confidence**2, right, images) == pytest.approx((-high, -low))
    low, high = error_difference(confidence, np.clip(confidence + 0.001, 0, 1), right, images)
    assert low < 0 < high


def test_the_area_is_the_mean_over_the_orders_of_those_equally_sure():
    rng = np.random.default_rng(2)
    confidence, accuracy = rng.integers(0, 4, 60) / 4, rng.random(60)
    orders = [rng.permutation(60) for _ in range(4000)]
    areas = [risk_coverage(confidence[order] - 1e-9 * np.arange(60), accuracy[order])[1].mean() for order in orders]
    assert area_under_risk_coverage(confidence, accuracy) == pytest.approx(np.mean(areas), abs=0.003)
    untied = rng.random(60)
    assert area_under_risk_coverage(untied, accuracy) == pytest.approx(risk_coverage(untied, accuracy)[1].mean())


def test_risk_and_coverage_by_hand():
    coverage, risk = risk_coverage([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0])
    assert coverage.tolist() == [0.25, 0.75, 0.75, 1]  # the two that are equally sure are answered together
    assert risk == pytest.approx([0, 1 / 3, 1 / 3, 0.5])
    assert coverage_at_risk(*risk_coverage([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0]), 0.1) == 0.25
    assert coverage_at_risk(*risk_coverage([0.9, 0.8], [0, 0]), 0.1) == 0
    assert coverage_at_risk(*risk_coverage([0.9, 0.8], [1, 1]), 0) == 1


@given(runs)
def test_risk_and_coverage_hold_whatever_the_run(run):
    confidence, accuracy = map(np.array, zip(*run))
    coverage, risk = risk_coverage(confidence, accuracy)
    assert (np.diff(coverage) >= 0).all() and coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - accuracy.mean()) and (risk >= -1e-9).all() and (risk <= 1 + 1e-9).all()
    allowed = [coverage_at_risk(*risk_coverage(confidence, accuracy), r) for r in (0.01, 0.05, 0.1, 1)]
    assert allowed == sorted(allowed) and allowed[-1] == 1


def test_the_best_possible_confidence_has_a_rising_risk():
    accuracy = np.random.default_rng(0).choice([0, 0.3, 1], 200)
    _, risk = risk_coverage(accuracy, accuracy)
    assert (np.diff(risk) >= -1e-12).all()


@settings(deadline=None)
@given(runs)
def test_the_best_threshold_is_the_best(run):
    confidence, accuracy = zip(*run)
    best = effective_reliability(confidence, accuracy, best_threshold(confidence, accuracy))
    assert best >= max(effective_reliability(confidence, accuracy, t) for t in (0, 0.25, 0.5, 1.01)) - 1e-12


def test_effective_reliability_by_hand():
    assert effective_reliability([0.9, 0.6, 0.2], [0.6, 0, 1], 0.5) == pytest.approx((0.6 - 1 + 0) / 3)
    assert effective_reliability([0.9, 0.6, 0.2], [0.6, 0, 1], 0.5, cost=10) == pytest.approx((0.6 - 10) / 3)
    assert effective_reliability([0.9, 0.6], [0, 0], 1.0) == 0  # who never answers loses nothing
    assert best_threshold([0.9, 0.6, 0.5], [1, 0, 1]) == 0.5  # of two that gain as much, the one that answers more


def test_halves_are_of_images_and_do_not_depend_on_order():
    images = [str(number) for number in range(1000)]
    half = in_first_half(images)
    assert 430 < half.sum() < 570
    assert (in_first_half(images[::-1]) == half[::-1]).all()


def test_a_threshold_is_measured_on_images_that_it_was_not_chosen_on():
    images = np.arange(200)
    row = abstention(np.full(200, 0.8), in_first_half(images), images)["effective_reliability"]
    assert (row["threshold"], row["with_threshold"], row["coverage"]) == (0.8, -100, 100)


def test_abstention_names_its_threshold_and_gains_by_it():
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    accuracy = (rng.random(20_000) < confidence).astype(float)
    result = abstention(confidence, accuracy, np.arange(20_000))
    row = result["effective_reliability"]
    assert row["threshold"] == pytest.approx(0.5, abs=0.1)  # where an answer is as often right as wrong
    assert row["with_threshold"] == pytest.approx(25, abs=3) and row["answering_all"] == pytest.approx(0, abs=4)
    assert result["coverage_at_risk"]["1"] <= result["coverage_at_risk"]["10"] < 40
    assert result["area_under_risk_coverage"] == pytest.approx(25, abs=2)

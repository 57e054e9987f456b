import math

import numpy as np
import pytest

import relstab
from relstab.bootstrap import Bootstrap, weighted_correlation

ARCHITECTURES, SEEDS = 7, 2
NETWORKS = np.repeat(np.arange(ARCHITECTURES), SEEDS)


def test_coverage_with_two_seeds_of_seven_architectures():
    """Nominal 95%: drawing single networks covers the true rho in 74%, drawing architectures, seeds and errors in 94%.

    ln eps and ln R of architectures have correlation 0.7 and spread 0.5 around an error of 5%, and seeds spread by 0.05 around
    them. Errors are measured on 1,000 test images. Over 200 repetitions the binomial standard error of 0.74 is 3.1%, of 0.94
    1.7%: the bounds are three of them away.
    """
    rng = np.random.default_rng(5)
    true = 0.7 * 0.5**2 / (0.5**2 + 0.05**2)
    old = new = 0
    for repetition in range(200):
        z = rng.normal(size=(2, ARCHITECTURES))
        between = 0.5 * np.stack([z[0], 0.7 * z[0] + math.sqrt(1 - 0.7**2) * z[1]])
        log_error, log_r = between[:, NETWORKS] + 0.05 * rng.normal(size=(2, len(NETWORKS)))
        error = np.maximum(rng.binomial(1000, np.minimum(0.05 * np.exp(log_error), 1)), 0.5) / 1000
        options = {"resamples": 300, "seed": repetition}
        low, high = relstab.bootstrap_log_correlation(error, np.exp(log_r), **options)
        old += low < true < high
        grouped = {"architectures": NETWORKS, "test_images": 1000}
        low, high = relstab.bootstrap_log_correlation(error, np.exp(log_r), **options, **grouped)
        new += low < true < high
    assert old <= 166
    assert new >= 177


def test_networks_are_drawn_within_architectures():
    bootstrap = Bootstrap(["a", "a", "b", "b", "b", "c", "d"], resamples=500)
    assert (bootstrap.counts[0] == 1).all()
    drawn = bootstrap.counts[1:]
    by_group = np.stack([drawn[:, :2].sum(1) / 2, drawn[:, 2:5].sum(1) / 3, drawn[:, 5], drawn[:, 6]], axis=1)
    assert (by_group == by_group.round()).all()  # an architecture is drawn with as many networks as it has
    assert (by_group.sum(1) == 4).all()
    # Once in the mean, with the variance of a multinomial draw: 4 * 1/4 * 3/4.
    assert by_group.mean(0) == pytest.approx(1, abs=5 * math.sqrt(0.75 / 500))
    assert (drawn[:, 0] != drawn[:, 1]).any()


def test_errors_are_drawn_from_their_binomial_distribution():
    bootstrap = Bootstrap(np.arange(3), resamples=4000)
    drawn = bootstrap.errors([0.02, 0.5, 0.0], [1000, 200, 100])
    assert drawn[0].tolist() == [0.02, 0.5, 0.005]  # an error of 0 counts as half a test image
    assert drawn[1:].mean(0)[:2] == pytest.approx([0.02, 0.5], abs=0.003)
    assert drawn[1:].std(0)[:2] == pytest.approx([math.sqrt(0.02 * 0.98 / 1000), math.sqrt(0.25 / 200)], rel=0.05)
    # Of 100 images with a probability of 0.005 each none is wrong in 0.995^100 = 61% of the draws.
    assert (drawn[1:, 2] == 0.005).mean() == pytest.approx(0.995**100, abs=0.04)
    assert drawn.min() == 0.005


def test_a_mean_has_the_standard_error_of_its_architectures():
    """Interval of the mean of 40 architectures with equal seeds: as wide as without the copies, 2 * 1.96 sd / sqrt(40)."""
    values = np.random.default_rng(0).normal(size=40)
    alone, twins = (Bootstrap(np.repeat(np.arange(40), copies), 4000) for copies in (1, 5))
    expected = 2 * 1.96 * values.std() / math.sqrt(40)
    for bootstrap, copies in ((alone, 1), (twins, 5)):
        interval = bootstrap.interval(bootstrap.mean(np.repeat(values, copies)))
        assert interval.value == pytest.approx(values.mean())
        assert interval.high - interval.low == pytest.approx(expected, rel=0.05)


def test_slopes_are_those_of_least_squares():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 9))
    bootstrap = Bootstrap(np.arange(9), 50)
    slopes = bootstrap.slope(x, y)
    assert slopes[0] == pytest.approx(np.polyfit(x, y, 1)[0])
    chosen = np.repeat(np.arange(9), bootstrap.counts[7].astype(int))
    assert slopes[7] == pytest.approx(np.polyfit(x[chosen], y[chosen], 1)[0])
    rho = bootstrap.correlation(x, y)
    assert rho[7] == pytest.approx(np.corrcoef(x[chosen], y[chosen])[0, 1])


def test_resamples_of_fewer_than_three_distinct_groups_say_nothing():
    """Of four groups with two networks each; two distinct points have correlation 1 or -1 whatever they are."""
    groups = np.repeat(np.arange(4), 2)
    x, y = np.random.default_rng(1).normal(size=(2, 8))
    bootstrap = Bootstrap(groups, 400)
    distinct = (bootstrap.counts.reshape(-1, 4, 2).sum(2) > 0).sum(1)
    assert set(distinct[1:]) == {1, 2, 3, 4}
    for statistic in (bootstrap.correlation(x, y), bootstrap.slope(x, y)):
        np.testing.assert_array_equal(np.isfinite(statistic), distinct >= 3)


def test_points_on_a_line_have_correlation_one_and_not_more():
    """Rounding takes some above 1, of which a logarithm or an arc cosine would be NaN."""
    x = np.random.default_rng(0).normal(size=(2000, 5))
    for sign in (1, -1):
        rho = weighted_correlation(x, sign * 3 * x + 0.1, np.ones((2000, 5)))
        assert np.abs(rho).max() == 1
        np.testing.assert_allclose(rho, sign, rtol=1e-12)


def test_three_architectures_have_no_interval_and_one_has_that_of_its_networks():
    x = np.arange(6.0)
    for groups, has_interval in (([0, 0, 1, 1, 2, 2], False), ([0, 0, 0, 1, 2, 3], True), ([0] * 6, True)):
        bootstrap = Bootstrap(groups, 100)
        interval = bootstrap.interval(bootstrap.mean(x))
        assert interval.value == 2.5
        assert math.isfinite(interval.low) == math.isfinite(interval.high) == has_interval
    empty = Bootstrap([], 100)
    assert math.isnan(empty.interval(empty.mean([])).value)
    assert math.isnan(empty.interval(empty.correlation([], [])).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bootstrap([1, 2], 0), "expected resamples to be at least 1, got 0"),
        (lambda: Bootstrap([1, 2], 5).interval(np.zeros(6), 95), "expected confidence to be between 0 and 1, got 95"),
    ],
)
def test_wrong_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

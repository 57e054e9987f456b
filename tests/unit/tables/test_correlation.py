import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import relstab


def test_correlation_is_that_of_the_reference(reference):
    error, sensitivity = reference["correlation_error"].numpy(), reference["correlation_X"].numpy()
    assert relstab.log_correlation(error, sensitivity) == pytest.approx(reference.figures["correlation"]["rho"], rel=1e-10)


@given(
    exponent=st.floats(-3, 3).filter(lambda x: abs(x) > 0.01),
    factor=st.floats(1e-3, 1e3),
    values=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=9, unique=True),
)
def test_a_power_law_has_correlation_one(exponent, factor, values):
    if np.std(np.log(values)) < 1e-3:
        return
    sensitivity = factor * np.array(values) ** exponent
    assert relstab.log_correlation(values, sensitivity) == pytest.approx(math.copysign(1, exponent), abs=1e-6)


def test_units_do_not_matter():
    rng = np.random.default_rng(0)
    error, sensitivity = rng.lognormal(size=(2, 20))
    rho = relstab.log_correlation(error, sensitivity)
    assert relstab.log_correlation(100 * error, 7 * sensitivity) == pytest.approx(rho, rel=1e-12)
    assert rho == pytest.approx(np.corrcoef(np.log(error), np.log(sensitivity))[0, 1], rel=1e-12)


def test_equal_errors_have_no_correlation():
    for count in range(2, 60):
        assert math.isnan(relstab.log_correlation([0.1] * count, np.arange(1, count + 1)))
        assert math.isnan(relstab.log_correlation(np.arange(1, count + 1), [0.2] * count))
        assert math.isnan(relstab.log_correlation([0.1] * count, [0.2] * count))
    assert all(math.isnan(end) for end in relstab.bootstrap_log_correlation([0.0005] * 6, range(1, 7)))


def test_tensors_with_gradients_are_numbers_too():
    error, sensitivity = torch.tensor([[0.1, 0.2, 0.4], [1.0, 2.0, 4.0]], requires_grad=True)
    assert relstab.log_correlation(error, sensitivity) == pytest.approx(1)


def test_bootstrap_covers_the_correlation_of_normal_logarithms():
    """90% percentile intervals over 40 networks hold the true rho = 0.6 about 88% of the time (they are a little narrow).

    Over 200 repetitions the binomial standard error is 2.3%: 80% to 96% are four of them around.
    """
    rng = np.random.default_rng(1)
    hits = 0
    for repetition in range(200):
        x, z = rng.normal(size=(2, 40))
        y = 0.6 * x + 0.8 * z
        low, high = relstab.bootstrap_log_correlation(np.exp(x), np.exp(y), 0.9, 400, repetition)
        assert low < high
        hits += low < 0.6 < high
    assert 160 <= hits <= 192


def test_bootstrap_is_seeded_and_needs_four_networks():
    error, sensitivity = [0.1, 0.2, 0.4, 0.3], [1.0, 2.0, 3.0, 5.0]
    assert relstab.bootstrap_log_correlation(error, sensitivity, seed=3) == relstab.bootstrap_log_correlation(
        error, sensitivity, seed=3
    )
    assert all(math.isnan(end) for end in relstab.bootstrap_log_correlation(error[:3], sensitivity[:3]))
    # Two distinct networks are always perfectly correlated, and 14 of 256 resamples are of the last two alone, which have
    # rho = -1: counted, they would be the lower end of a 90% interval.
    low, high = relstab.bootstrap_log_correlation(error, sensitivity, 0.9, seed=3)
    assert -0.9 < low < high < 1


@pytest.mark.parametrize(
    ("error", "sensitivity", "message"),
    [
        ([0.1, 0.0], [1, 2], "expected error to hold positive.* got 0"),
        ([0.1, 0.2], [1, -2], "expected sensitivity to hold positive.* got -2"),
        ([0.1, math.nan], [1, 2], "expected error to hold positive.* got nan"),
        ([0.1, 0.2, 0.3], [1, 2], "expected error and sensitivity of one shape"),
        ([0.1], [1], "at least 2"),
    ],
)
def test_what_has_no_logarithm_is_refused(error, sensitivity, message):
    with pytest.raises(ValueError, match=message):
        relstab.log_correlation(error, sensitivity)

"""The Gaussian process: its gradient, what it predicts, and what it says of points that are left out."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from evonas.evolution.gp import _EACH, GaussianProcess, Inputs

GROUPS = [0, 1, 2, 3, 4, 4]


def smooth(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x[:, 0]) + x[:, 1] ** 2 + 0.3 * x[:, 2]


def fitted(x: np.ndarray, y: np.ndarray, groups=GROUPS, shared: bool = False) -> GaussianProcess:
    return GaussianProcess(Inputs(x, groups, shared), y)


def predicted(gp: GaussianProcess, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return gp.predict(gp.inputs.across(x))


def sample(n: int, seed: int = 0, noise: float = 0.0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, len(GROUPS)))
    return x, smooth(x) + rng.normal(0, noise, n)


@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_is_that_of_the_loss(shared):
    gp = fitted(*sample(40, noise=0.1), GROUPS, shared)
    data = gp.inputs.x, gp._y, gp.inputs.additive
    rng = np.random.default_rng(1)
    for _ in range(3):
        theta = gp._prior + rng.normal(0, 0.5, len(gp._prior))
        steps = 1e-5 * np.eye(len(theta))
        numeric = [(gp._loss(theta + s, *data)[0] - gp._loss(theta - s, *data)[0]) / 2e-5 for s in steps]
        assert gp._loss(theta, *data)[1] == pytest.approx(np.array(numeric), rel=1e-4, abs=1e-4)


def test_the_evidence_tells_what_follows_from_the_inputs_on_any_scale():
    x, y = sample(60, noise=0.1)
    tossed = np.random.default_rng(1).permutation(y)
    assert fitted(x, y).evidence > fitted(x, tossed).evidence + 10
    # A density: of outputs ten times as far apart it is a tenth for each.
    far = fitted(x, 10 * y).evidence
    assert far == pytest.approx(fitted(x, y).evidence - 60 * np.log(10), abs=0.01)


@pytest.mark.parametrize("shared", [False, True])
def test_a_sum_over_many_groups_is_learned_from_few_points(shared):
    """By the additive part: no two of these points are close together in all groups."""
    errors = []
    for seed in range(3):
        x = np.random.default_rng(seed).random((200, 24))
        y = np.abs(x - 0.4).sum(axis=1)
        mean, _ = predicted(fitted(x[:100], y[:100], range(24), shared), x[100:])
        errors.append(np.sqrt(((mean - y[100:]) ** 2).mean()) / y.std())
    assert np.median(errors) < 0.4  # 0.85 without that part


def test_of_many_groups_it_is_found_out_which_count(monkeypatch):
    """By sizes of their own in the additive part, all else being the same."""
    monkeypatch.setattr("evonas.evolution.gp._SHARED", _EACH)
    errors = {True: [], False: []}
    for seed in range(3):
        x = np.random.default_rng(seed).random((160, 24))
        y = 4 * np.abs(x[:, 3] - 0.4) + np.sin(9 * x[:, 7]) + 0.3 * np.abs(x - 0.4).sum(axis=1)
        for shared, found in errors.items():
            mean, _ = predicted(fitted(x[:80], y[:80], range(24), shared), x[80:])
            found.append(np.sqrt(((mean - y[80:]) ** 2).mean()) / y.std())
    assert np.median(errors[False]) < 0.2 < 0.25 < np.median(errors[True])


def test_a_smooth_function_is_learned_and_irrelevant_inputs_are_found_out():
    x, y = sample(80, noise=0.01)
    gp = fitted(x[:60], y[:60])
    mean, std = predicted(gp, x[60:])
    assert np.sqrt(((mean - y[60:]) ** 2).mean()) < 0.15 * y.std()
    assert 0.3 < np.sqrt((((mean - y[60:]) / np.hypot(std, 0.01)) ** 2).mean()) < 2.0
    lengths = np.exp(gp._theta[: max(GROUPS) + 1])
    assert lengths[0] < lengths[3] and lengths[0] < lengths[4]


def test_it_is_surer_near_what_it_has_seen():
    x, y = sample(30)
    gp = fitted(x, y)
    near, far = predicted(gp, np.vstack([x[:1] + 1e-3, np.full((1, 6), 3.0)]))[1]
    assert near < 0.1 * far


def test_points_left_out_together_are_predicted_as_if_they_had_never_been():
    x, y = sample(50, noise=0.05)
    gp = fitted(x, y)
    rows = np.array([3, 17, 40, 49])
    without, without.inputs = copy.copy(gp), copy.copy(gp.inputs)
    kept = np.setdiff1d(np.arange(50), rows)
    without.inputs.x, without._y = gp.inputs.x[kept], gp._y[kept]
    without.inputs.additive = gp.inputs.additive[:, kept][:, :, kept]
    without._settle()
    mean, std = predicted(without, x[rows])
    assert gp.left_out(rows) == pytest.approx(mean, abs=1e-6)
    noise = gp._scale**2 * (gp._parts(gp._theta)[3] + 1e-8)
    assert gp.left_out_and_spread(rows)[1] == pytest.approx(np.sqrt(std**2 + noise), rel=1e-4)


@pytest.mark.parametrize("y", [np.full(8, 3.0), np.arange(8) * 1e9, np.arange(8) * 1e-9])
def test_constant_huge_and_tiny_outputs(y):
    x = np.linspace(0, 1, 8)[:, None]
    mean, std = predicted(fitted(x, y, [0]), x)
    assert mean == pytest.approx(y, abs=0.2 * (y.max() - y.min()) + 1e-6) and np.isfinite(std).all()


def test_the_same_point_twice_does_no_harm():
    x, y = sample(20)
    mean, _ = predicted(fitted(np.vstack([x, x]), np.concatenate([y, y + 0.1])), x)
    assert mean == pytest.approx(y + 0.05, abs=0.1)


def test_same_data_same_result():
    x, y = sample(40, noise=0.1)
    one, other = (predicted(fitted(x, y), x) for _ in range(2))
    assert np.array_equal(one, other)


def test_each_point_left_out_by_itself():
    rng = np.random.default_rng(5)
    x = rng.random((25, 3))
    model = fitted(x, np.sin(3 * x[:, 0]) + x[:, 1], [0, 1, 2])
    one_by_one = [model.left_out(np.array([k]))[0] for k in range(25)]
    np.testing.assert_allclose(model.each_left_out(), one_by_one, rtol=1e-6)

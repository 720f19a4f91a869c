"""Scores by hand, and their intervals beside those of scipy and statsmodels."""

import math

import numpy as np
import pytest
from scipy import stats

from lmlab.tasks.item_by_item import compare, mcnemar
from lmlab.tasks.likelihood import Answers
from lmlab.tasks.scores import Measured, scores, student, wilson

NAN = math.nan


def answers(log_probs, right=None, characters=None, is_greedy=None) -> Answers:
    log_probs = np.array(log_probs, dtype=float)
    n = len(log_probs)
    characters = np.ones(log_probs.shape) if characters is None else np.array(characters)
    greedy = np.zeros(log_probs.shape, dtype=bool) if is_greedy is None else np.array(is_greedy)
    right = np.zeros(n, dtype=int) if right is None else np.array(right)
    return Answers(log_probs, greedy, characters, 2 * characters, right)


def test_scores_are_what_they_are_said_to_be():
    given = answers(
        [[-2, -4, NAN], [-6, -4, -5], [-3, -3, NAN], [NAN, NAN, NAN]],
        right=[0, 2, 1, 0],
        characters=[[4, 4, 1], [1, 1, 5], [3, 3, 1], [1, 1, 1]],
    )
    values = {name: score.value for name, score in scores(given).items()}
    assert values == {
        "accuracy": pytest.approx((1 + 0 + 1 / 2) / 3),  # the third is tied
        "accuracy_per_character": pytest.approx((1 + 1 + 1 / 2) / 3),
        "margin": pytest.approx((2 - 1 + 0) / 3),
        "bits_per_byte": pytest.approx((2 + 5 + 3) / math.log(2) / (8 + 10 + 6)),
    }


def test_of_single_choices_each_token_has_to_be_the_likeliest():
    given = answers([[-2], [-3], [NAN]], is_greedy=[[True], [False], [True]])
    found = scores(given)
    assert found.keys() == {"accuracy", "bits_per_byte"}
    assert found["accuracy"].value == 0.5
    assert found["bits_per_byte"].value == pytest.approx(5 / math.log(2) / 4)


def test_of_no_items_there_is_no_figure():
    found = scores(answers([[NAN, NAN]]))
    assert all(math.isnan(score.value) for score in found.values())


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 10), (480, 500), (12, 12)])
def test_the_interval_of_an_accuracy_is_wilsons(k, n):
    score = wilson(Measured(np.arange(n) < k, np.ones(n)))
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(1).normal(size=30)
    score = student(Measured(values, np.ones(30)))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (score.low, score.high) == pytest.approx(tuple(expected))


def test_the_interval_of_a_ratio_holds_the_truth_as_often_as_it_says():
    draw, held = np.random.default_rng(1), 0
    for _ in range(400):
        sizes = draw.integers(1, 20, 60).astype(float)
        score = student(Measured(sizes * 1.5 + draw.normal(size=60) * np.sqrt(sizes), sizes))
        held += score.low <= 1.5 <= score.high
    assert 0.92 < held / 400 < 0.98


def test_two_models_are_compared_item_by_item():
    draw = np.random.default_rng(2)
    hardness = draw.normal(size=(300, 1)) * 3
    mine = hardness + np.array([0.5, 0.0]) + draw.normal(size=(300, 2)) / 4 - 9
    theirs = hardness + draw.normal(size=(300, 2)) / 4 - 9
    mine[0] = NAN
    theirs[1] = NAN
    found = compare(answers(mine), answers(theirs))
    accuracy = found["accuracy"]
    right = [answer[2:, 0] > answer[2:, 1] for answer in (mine, theirs)]
    better, worse = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
    assert (accuracy.n_items, accuracy.better, accuracy.worse) == (298, better, worse)
    assert accuracy.value == pytest.approx((better - worse) / 298)
    assert accuracy.p == pytest.approx(stats.binomtest(int(better), int(better + worse)).pvalue)
    assert accuracy.p < 1e-6
    # The bootstrap of a mean is close to Student's interval of the paired differences.
    bits = found["bits_per_byte"]
    paired = (theirs - mine)[2:, 0] / math.log(2) / 2
    expected = stats.ttest_1samp(paired, 0).confidence_interval()
    assert (bits.low, bits.high) == pytest.approx(tuple(expected), abs=0.01)
    assert found == compare(answers(mine), answers(theirs))
    assert bits.p is None


def test_a_model_beside_itself_differs_by_nothing():
    given = answers(np.random.default_rng(3).normal(size=(50, 2)) - 9)
    for difference in compare(given, given).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert difference.p in (None, 1.0)


def test_mcnemars_test_of_few_items():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 / 2**6)

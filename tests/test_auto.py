"""The race of planner settings, on settings whose success and cost are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.auto import Choice, race
from echelon.envs.task import Trial
from echelon.evaluation import Method, Outcome
from echelon.types import EchelonError

PLACE = np.array([1.5, 1.5])
TRIALS = [Trial("9+", np.zeros((3, 3), np.int8), PLACE, PLACE, number) for number in range(80)]


class Known:
    """Settings by name: they succeed in so many trials of a hundred, at a cost."""

    def __init__(self, **rates: tuple[int, float]) -> None:
        self.rates = rates
        self.methods = [Method("hierarchical", name) for name in rates]
        self.tried: dict[str, list[int]] = {name: [] for name in rates}

    def __call__(self, method: Method, trials: Sequence[Trial]) -> Outcome:
        rate, tflops = self.rates[method.setting]
        numbers = np.array([trial.distance for trial in trials])
        self.tried[method.setting] += numbers.tolist()
        success = (37 * numbers) % 100 < rate
        steps, macs = np.ones(len(trials), np.int64), np.full(len(trials), tflops * 1e12 / 2)
        return Outcome(success, steps, np.ones(len(trials)), macs)

    def choice(self, asked: float = 0.9) -> Choice:
        return race(self.methods, TRIALS, self, asked)


def test_the_cheapest_that_reaches_what_is_asked_is_chosen() -> None:
    known = Known(dear=(100, 3.0), right=(96, 1.8), cheap=(80, 1.0))
    choice = known.choice()
    assert choice.chosen.method.setting == "right"
    assert choice.reached
    assert choice.chosen.tflops == pytest.approx(1.8)
    assert choice.chosen.episodes == len(TRIALS)
    assert choice.in_words().startswith("planner: right, the cheapest that reaches 90%: ")
    assert "of 80 at 1.8 TFLOPs an episode, of 3 settings" in choice.in_words()
    assert [raced.method.setting for raced in choice.frontier] == ["cheap", "right", "dear"]


def test_where_none_reaches_it_the_best_is_chosen_and_that_is_said() -> None:
    choice = Known(bad=(10, 1.0), better=(60, 9.0)).choice()
    assert choice.chosen.method.setting == "better"
    assert not choice.reached
    assert "the best there is; none reaches 90%" in choice.in_words()


def test_who_cannot_win_leaves_the_race() -> None:
    known = Known(bad=(5, 1.0), right=(98, 2.0), twice=(99, 4.1))
    choice = known.choice()
    assert known.tried["right"] == list(range(80))
    assert known.tried["bad"] == known.tried["twice"] == list(range(20))
    assert [raced.left_after for raced in choice.race] == [20, None, 20]


def test_of_those_that_fall_short_the_dearer_leaves_where_it_is_no_better() -> None:
    known = Known(long=(40, 1.0), dear=(40, 2.1), better=(60, 2.1))
    choice = known.choice()
    assert choice.chosen.method.setting == "better"
    assert [raced.left_after for raced in choice.race] == [None, 20, None]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0.1, 10)), min_size=1, max_size=6),
    st.floats(0.05, 1),
)
def test_whatever_the_settings_are(rates: list[tuple[int, float]], asked: float) -> None:
    known = Known(**{f"s{i}": rate for i, rate in enumerate(rates)})
    choice = known.choice(asked)
    assert choice.chosen.left_after is None
    assert choice.chosen.episodes == len(TRIALS)
    for name, numbers in known.tried.items():
        assert numbers == list(range(len(numbers))), name  # each trial once, the same for all
    if choice.reached:
        rivals = [r for r in choice.race if r.left_after is None and r.rate >= asked]
        assert choice.chosen.tflops == min(r.tflops for r in rivals)
    else:
        assert choice.chosen.rate == max(r.rate for r in choice.race if r.left_after is None)
    rates_up = [raced.rate for raced in choice.frontier]
    assert rates_up == sorted(set(rates_up))


def test_what_cannot_be_raced_is_refused() -> None:
    known = Known(one=(50, 1.0))
    with pytest.raises(EchelonError, match="no setting to choose from"):
        race([], TRIALS, known)
    with pytest.raises(EchelonError, match="7 are too few to choose by; use at least 8"):
        race(known.methods, TRIALS[:7], known)
    with pytest.raises(EchelonError, match="not a share above 0"):
        race(known.methods, TRIALS, known, 0.0)

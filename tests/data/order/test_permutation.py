"""Permutations of which any one place is computed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data.order.permutation import Permutation, keys_of

sizes = st.integers(1, 400) | st.sampled_from([1023, 1024, 1025, 12_345])


@given(n=sizes, key=st.text(max_size=8))
def test_every_place_is_taken_once(n: int, key: str) -> None:
    keys, _ = keys_of(key)
    assert sorted(Permutation(n, keys)(np.arange(n))) == list(range(n))


@given(n=sizes, key=st.text(max_size=8), data=st.data())
def test_a_place_goes_where_it_goes_whatever_it_is_asked_with(
    n: int, key: str, data: st.DataObject
) -> None:
    permutation = Permutation(n, keys_of(key)[0])
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), np.int64)
    assert permutation(places).tolist() == permutation(np.arange(n))[places].tolist()


@given(ns=st.lists(sizes, min_size=1, max_size=20), data=st.data())
def test_each_place_may_be_of_a_permutation_of_its_own_size(
    ns: list[int], data: st.DataObject
) -> None:
    keys, _ = keys_of("some")
    places = np.array([data.draw(st.integers(0, n - 1)) for n in ns])
    alone = [int(Permutation(n, keys)(np.array([p]))[0]) for n, p in zip(ns, places, strict=True)]
    assert Permutation(np.array(ns), keys)(places).tolist() == alone


def test_every_order_of_five_comes_and_none_much_more_often_than_others() -> None:
    orders = [tuple(Permutation(5, keys_of(str(i))[0])(np.arange(5))) for i in range(6000)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 120
    assert ((counts - 50) ** 2 / 50).sum() < 2 * 120  # chi squared; its mean is 119


def test_neighbours_are_not_neighbours_any_more() -> None:
    n = 10_000
    moved = Permutation(n, keys_of("a")[0])(np.arange(n)).astype(float)
    before = np.arange(n)
    for one, other in ((moved, before), (moved[1:], moved[:-1]), (moved % 100, before % 100)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(n)


def test_places_beyond_any_list_are_as_quick() -> None:
    n = (1 << 52) + 12_345
    places = np.array([0, 1, n // 2, n - 1])
    moved = Permutation(n, keys_of("a")[0])(places)
    assert len(set(moved.tolist())) == 4
    assert ((moved >= 0) & (moved < n)).all()

"""Answers that are kept until there is news."""

import threading
import time

import pytest

from lmlab.sweeps.board.answering import Answers


def test_who_asks_while_the_new_answer_is_made_has_the_one_before():
    answers, may_go_on = Answers(), threading.Event()

    def slowly() -> dict[str, int]:
        assert may_go_on.wait(20)
        return {"n": 2}

    assert answers.made(("a",), "1", lambda: {"n": 1}) == b'{"n": 1}'
    time.sleep(0.01)  # more than five times what that took
    for _ in range(2):
        assert answers.made(("a",), "2", slowly, rest=0) == b'{"n": 1}'
    may_go_on.set()
    deadline = time.monotonic() + 20
    while answers.made(("a",), "2", slowly, rest=0) != b'{"n": 2}':
        assert time.monotonic() < deadline


def test_what_goes_wrong_is_raised_for_who_asked_and_made_anew_the_next_time():
    answers = Answers()
    with pytest.raises(ZeroDivisionError):
        answers.made(("a",), "1", lambda: {"n": 1 // 0})
    assert answers.made(("a",), "1", lambda: {"n": 1}) == b'{"n": 1}'

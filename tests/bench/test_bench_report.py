"""What the benchmark writes and shows."""

from benchmarks import report
from benchmarks.rounds import Part, Ratio, Table, interleave, ratio


def test_every_contestant_has_its_turn_and_none_is_always_first():
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    seconds = interleave(turns, rounds=3)
    assert seconds == {name: [1.0] * 3 for name in "abc"}
    assert "".join(order) == "abcbcacab"


def test_a_ratio_is_taken_within_a_round():
    # The second round was slow for both: a ratio of medians would not see it that way.
    seconds = {"ours": [1.0, 8.0, 1.5], "theirs": [2.0, 16.0, 3.0]}
    assert ratio(seconds, "ours", "theirs") == 0.5


def test_what_is_written_is_what_is_shown_again(tmp_path):
    ratios = [Ratio("ours / theirs", 0.25, at_most=0.35), Ratio("speed", 9.0, at_least=10)]
    part = Part(
        "steps", ratios, [Table("times", ["", "us"], [["ours", "12"]])], {"a": {"b": [1.0]}}
    )
    report.write(tmp_path / "bench.json", {"cores": 2}, [part])
    where, parts = report.read(tmp_path / "bench.json")
    assert (where, parts) == ({"cores": 2}, [part])
    shown = [report.markdown(table) for table in report.tables(parts)]
    assert shown == [
        "|  | measured | aim | reached |\n| --- | ---: | ---: | ---: |\n"
        "| ours / theirs | 0.25 | at most 0.35 | yes |\n| speed | 9 | at least 10 | no |",
        "|  | us |\n| --- | ---: |\n| ours | 12 |",
    ]

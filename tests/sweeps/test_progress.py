"""How far a sweep is, told by its files."""

import json
import time
from pathlib import Path

import pytest
from sweeps.made import made

from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.journal.journal import FOLDER, Event, Journal
from lmlab.sweeps.journal.planned import LaunchPlan, Work
from lmlab.sweeps.live.table import summary
from lmlab.sweeps.live.time_left import Running, TimeLeft, time_left
from lmlab.sweeps.live.watched import SweepProgress, Watched
from lmlab.sweeps.table.reading import read

BIGRAM, HEAD, GPT = (Work(steps=100, flops=flops) for flops in (0.0, 4e9, 400e9))
JOBS = [["model=bigram", f"seed={seed}"] for seed in (1, 2)] + [["model=gpt", "seed=1"]]


def look(sweep: Path) -> SweepProgress:
    runs, _ = read([sweep])
    return Watched(sweep).look(runs)


def launched(sweep: Path, work: list[Work] | None = None) -> Journal:
    return Journal.create(sweep, LaunchPlan.of(len(JOBS), "joblib", JOBS, work, at_once=2))


def test_a_launch_tells_what_it_plans_and_what_is_at_work(tmp_path):
    journal = launched(tmp_path)
    done = made(tmp_path, {"model": "bigram", "seed": 1}, 2.5)
    runs = [RunDirectory(made(tmp_path, {"seed": n}, None, "running", step=50)) for n in (2, 3)]
    journal.add(Event(0, "running", 1.0, str(done)))
    journal.add(Event(0, "done", 9.0, str(done), 2.5, trained=True))
    for number, run in enumerate(runs, 1):
        journal.add(Event(number, "running", 1.0, str(run.path)))
    with runs[0].locked(), runs[1].locked():
        progress = look(tmp_path)
        assert progress.counts == {"done": 1, "running": 2}
        assert (progress.launcher, progress.is_over) == ("joblib", False)
        assert progress.best is not None
        assert progress.best.name == done.name
        journal.close()  # who launched is gone, and the workers are not
        progress = look(tmp_path)
        assert progress.counts == {"done": 1, "running": 2}
        assert progress.left is not None
        assert progress.left.seconds == pytest.approx(1.5, abs=0.2)  # as long as it took so far
    assert look(tmp_path).counts == {"done": 1, "killed": 2}


def test_a_killed_launch_leaves_its_plan_and_the_next_goes_on_with_it(tmp_path):
    killed = launched(tmp_path)
    done = made(tmp_path, {"model": "bigram", "seed": 1})
    half = made(tmp_path, {"model": "bigram", "seed": 2}, None, "running", step=50)
    killed.add(Event(0, "done", 1.0, str(done), 2.0, trained=True))
    killed.add(Event(1, "running", 1.0, str(half)))
    assert look(tmp_path).counts == {"done": 1, "killed": 1, "waiting": 1}
    killed.close()  # as the system does
    progress = look(tmp_path)
    assert progress.counts == {"done": 1, "killed": 1, "not begun": 1}
    assert (progress.n_jobs, progress.is_over, progress.left) == (3, True, None)

    again = launched(tmp_path)
    assert look(tmp_path).counts == {"done": 1, "waiting": 2}
    again.add(Event(0, "done", time.time(), str(done), 2.0))
    again.add(Event(1, "running", time.time(), str(half)))
    with RunDirectory(half).locked():
        assert look(tmp_path).counts == {"done": 1, "running": 1, "waiting": 1}
    again.remove()
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert look(tmp_path).counts == {"done": 1, "killed": 1}


def test_what_another_launch_left_stays_planned(tmp_path):
    launched(tmp_path).close()
    one = Journal.create(tmp_path, LaunchPlan.of(1, "basic", JOBS[:1]))
    one.remove()
    assert look(tmp_path).counts == {"not begun": 3}


def test_a_search_says_how_many_are_left(tmp_path):
    for _ in range(2):  # processes share a study: each counts what nobody has taken
        journal = Journal.create(tmp_path, LaunchPlan.of(20, "joblib"))
        journal.add(Event(0, "running", time.time(), "job-1"))
    assert look(tmp_path).counts == {"running": 1, "waiting": 19}


@pytest.mark.parametrize(
    "plan",
    [
        {"jobs": 4},  # as they were written first
        {"jobs": 4, "overrides": [["seed=1"]] * 4, "pid": 1, "host": "x", "more": {}},
    ],
)
def test_a_plan_of_somebody_else(tmp_path, plan):
    journal = launched(tmp_path)
    journal.path.with_suffix(".json").write_text(json.dumps(plan))
    journal.close()
    assert look(tmp_path).n_not_begun == (4 if "overrides" not in plan else 1)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{",
        b"\xff",
        b'{"jobs": -1}',
        b'{"jobs": "4"}',
        b'{"jobs": 2, "overrides": [["a"]]}',
        b'{"jobs": 1, "overrides": [[{}]]}',
        b'{"jobs": 1, "work": [{"flops": NaN}]}',
        b'{"jobs": 1}' + b" " * (1 << 24),
    ],
)
def test_a_plan_that_is_none(tmp_path, content):
    journal = launched(tmp_path)
    journal.path.with_suffix(".json").write_bytes(content)
    assert journal.plan is None
    assert look(tmp_path).n_jobs == 0


def test_a_plan_of_more_jobs_than_there_can_be(tmp_path):
    journal = Journal.create(tmp_path, LaunchPlan.of(2**62, "joblib"))
    journal.add(Event(0, "running", time.time(), "job-1"))
    journal.add(Event(0, "done", time.time(), "job-1", trained=True))
    began = time.monotonic()
    assert look(tmp_path).n_waiting == 2**62 - 1
    assert time.monotonic() - began < 1


def test_a_plan_too_long_to_be_kept_says_how_many_there_are(tmp_path):
    jobs = [["x" * 1000, f"seed={seed}"] for seed in range(17_000)]
    journal = Journal.create(tmp_path, LaunchPlan.of(len(jobs), "basic", jobs))
    assert journal.plan is not None
    assert (journal.plan.n_jobs, journal.plan.overrides) == (17_000, None)


def test_a_journal_names_nothing_outside_the_sweep(tmp_path):
    elsewhere = made(tmp_path / "elsewhere", {"seed": 1})
    journal = launched(tmp_path / "sweep")
    for number, run in enumerate([str(elsewhere), "..", "/", f"../elsewhere/{elsewhere.name}"]):
        journal.add(Event(number, "running", 1.0, run))
    assert {job.path for job in look(tmp_path / "sweep").jobs} == {None}


def test_time_left_never_takes_a_bigram_for_a_gpt(tmp_path):
    done = [(BIGRAM, 2.0), (BIGRAM, 4.0)]
    assert time_left(done, [], [BIGRAM] * 4, at_once=2) == TimeLeft(6.0)
    assert time_left(done, [], [BIGRAM, GPT], 1) == TimeLeft(6.0, is_least=True)
    # Once another size has ended, operations tell.
    assert time_left([*done, (HEAD, 3.5)], [], [GPT], 1) == TimeLeft(pytest.approx(53.0))
    # Once it runs, its own pace does.
    pace = Running(GPT, taken=10.0, left=90.0)
    assert time_left(done, [pace], [GPT], 1) == TimeLeft(190.0)
    assert time_left([(HEAD, 3.0)], [], [Work(steps=100, flops=8e9)], 1) == TimeLeft(6.0)
    assert time_left([(GPT, 100.0)], [], [HEAD], 1) == TimeLeft(100.0)
    assert time_left([], [], [GPT], 1) is None
    # What nobody knows the operations of takes as long as the others.
    assert time_left([(Work(), 3.0)], [Running(Work(), 1.0)], [Work()], 1) == TimeLeft(5.0)
    # Two at once take as long as the longer of them.
    assert time_left([], [Running(HEAD, 1.0, 1.0), Running(GPT, 1.0, 9.0)], [], 2) == TimeLeft(9.0)


def test_a_failure_does_not_shorten_the_time_that_is_left(tmp_path):
    journal = Journal.create(tmp_path, LaunchPlan.of(6, "basic"))
    for job, (status, seconds) in enumerate([("done", 100.0), ("failed", 1.0), ("failed", 1.0)]):
        journal.add(Event(job, "running", 1000.0, f"job-{job}"))
        journal.add(Event(job, status, 1000.0 + seconds, f"job-{job}", trained=True))
    assert look(tmp_path).left == TimeLeft(300.0)


def test_time_left_of_a_sweep_of_two_sizes(tmp_path):
    journal = launched(tmp_path, [BIGRAM, BIGRAM, GPT])
    for number in (0, 1):
        run = made(tmp_path, {"model": "bigram", "seed": number})
        journal.add(Event(number, "running", 10.0 * number, str(run)))
        journal.add(Event(number, "done", 10.0 * number + 3, str(run), trained=True))
    assert look(tmp_path).left == TimeLeft(3.0, is_least=True)
    config = {"trainer.max_steps": 1000, "eval.every": 100}
    half = {"step": 500, "seconds": 50.0}
    gpt = RunDirectory(made(tmp_path, {"model": "gpt"}, 2.0, "running", config=config, **half))
    journal.add(Event(2, "running", time.time() - 60, str(gpt.path)))
    with gpt.locked():
        progress = look(tmp_path)
    (job,) = (job for job in progress.jobs if job.status == "running")
    assert (job.step, job.max_steps, job.rate) == (500, 1000, 10.0)
    assert progress.left is not None
    assert progress.left.seconds == pytest.approx(50.0, abs=2)


def test_the_size_of_what_has_begun_tells_that_of_what_has_not(tmp_path):
    journal = launched(tmp_path, [Work(), Work(), Work()])  # nobody has counted operations
    run = made(tmp_path, {"model": "bigram", "seed": 1}, flops=10**9, tokens=3200)
    journal.add(Event(0, "running", 1.0, str(run)))
    journal.add(Event(0, "done", 4.0, str(run), 2.0, trained=True))
    assert look(tmp_path).left == TimeLeft(6.0, is_least=True)  # of the GPT nothing is known
    (launch,) = Watched(tmp_path)._launches.look()
    same = Work(steps=100, flops=1e9)
    assert launch.work({0: same}) == [same, same, Work()]


def test_numbers_that_nobody_measured(tmp_path):
    journal = launched(
        tmp_path, [Work(), Work(steps=2**62, flops=1e-300), Work(steps=1, flops=3e38)]
    )
    for number in (0, 1):
        run = made(tmp_path, {"seed": number}, flops=10**300, tokens=10**300, seconds=1e308)
        journal.add(Event(number, "done", 1.0, str(run), 1e308, trained=number == 1))
    config = {"trainer.max_steps": 10**400, "eval.every": 10**400}
    record = {"step": 1, "seconds": 1e-300, "flops": 1e300}
    for more in (config, {"trainer.max_steps": 2**62}, {}):
        run = RunDirectory(made(tmp_path, {}, 1e308, "running", config=more, **record))
        journal.add(Event(2, "running", 1.0, str(run.path)))
        with run.locked():
            assert summary(look(tmp_path)).startswith("2/")
    assert time_left([(Work(flops=0.0), 1.0), (Work(flops=1e-200), 2.0)], [], [GPT], 1)

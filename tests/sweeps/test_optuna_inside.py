"""What is used of Optuna's inside is in one file, and fails here first when Optuna moves it."""

import ast
from pathlib import Path

import optuna

import lmlab.sweeps.search
from lmlab.sweeps.search.optuna_inside import trial_again

FILES = sorted(Path(lmlab.sweeps.search.__path__[0]).glob("*.py"))


def touches_an_inside(path: Path) -> bool:
    """Whether something of another's whose name begins with _ is used."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and "._" in str(node.module):
            return True
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "shared")
            if not is_own and not node.attr.startswith("__"):
                return True
    return False


def test_one_file_touches_optunas_inside():
    assert [path.name for path in FILES if touches_an_inside(path)] == ["optuna_inside.py"]


def test_a_trial_goes_on_in_another_process(tmp_path):
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
    storage = optuna.storages.JournalStorage(journal)
    asked = optuna.create_study(study_name="it", storage=storage).ask()
    x = asked.suggest_float("x", 0, 1)
    elsewhere = optuna.load_study(study_name="it", storage=storage)
    (frozen,) = elsewhere.get_trials(deepcopy=False)
    again = trial_again(elsewhere, frozen)
    assert (again.number, again.params) == (asked.number, {"x": x})
    again.suggest_int("y", 1, 1)
    again.set_user_attr("note", "mine")
    again.report(2.0, 3)
    elsewhere.tell(again.number, 1.0)
    (ended,) = elsewhere.trials
    assert (ended.params, ended.user_attrs) == ({"x": x, "y": 1}, {"note": "mine"})
    assert (ended.intermediate_values, ended.value) == ({3: 2.0}, 1.0)

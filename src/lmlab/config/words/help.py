"""`--help`: what a command does, what can be chosen, and what each key means.

A key's meaning is the comment beside it in conf/, and an option's the comment that its file begins
with, so that what explains a config stands in one place.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lmlab.config.slips import nearest
from lmlab.config.words.compose import composed, options, shown_few
from lmlab.config.words.python_words import in_grammar
from lmlab.errors import LabError

FLAGS = {
    "--help WORD …": "a group's options, or what a key means: --help model, --help data.order",
    "--version": "the lab's version, and those of what it stands on",
    "--cfg job": "show the config, with nothing but YAML, and do nothing",
    "-m, --multirun": "take key=a,b,c as so many jobs",
    "--config-dir DIR": "a folder with options of your own, laid out as conf/ is",
    "--hydra-help": "Hydra's own flags and groups, tab completion among them",
}
HOW_MADE = ("_target_", "_partial_")  # of a part: shown where somebody asks for the part
SHORT_COLUMN, OPTION_COLUMN, KEY_COLUMN = 20, 28, 36  # where the right-hand side begins


@dataclass(frozen=True)
class Comments:
    """What a config file says of itself."""

    about: str
    is_global: bool  # whether its keys stand at the root, not under its group
    keys: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)  # by the first key of each
    defaults: list[str] = field(default_factory=list)  # other files that it is built on


def help_text(
    name: str, about: str, usage: str, topics: Sequence[str], words: list[str], folders: list[Path]
) -> str:
    """What `--help` shows of the command `name`, whose overrides are `words`.

    `topics` are groups and keys to be explained; with none, it is everything in short. `folders`
    are conf/ and folders of one's own.

    Raises:
        LabError: for a topic that is no group and no key.
    """
    page = _Page(name, words, folders)
    if topics:
        return "\n\n".join(page.topic(topic) for topic in topics)
    choices = "[group=option …] " if page.groups else ""
    lines = [about, "", f"usage: {usage} {choices}[key=value …] [flag …]", ""]
    for flag, meaning in FLAGS.items():
        lines += _beside(flag, meaning, SHORT_COLUMN)
    if page.groups:
        lines += ["", "Choices (group=option):", ""]
        for group in page.groups:
            lines += _beside(group, shown_few(options(folders, group)), SHORT_COLUMN)
    lines += ["", "Every key, with the value it has now (key=value):"]
    return "\n".join([*lines, *page.everything()])


class _Page:
    """A composed config, and what its files say of the keys."""

    def __init__(self, name: str, words: list[str], folders: list[Path]):
        from omegaconf import OmegaConf

        if len(folders) > 1:
            own = [f"file://{folder}" for folder in folders[1:]]
            words = [*words, f"hydra.searchpath={in_grammar(own)}"]
        cfg = composed(name, words, with_hydra=True)
        self.folders = folders
        self.chosen = {
            group: option
            for group, option in cfg.hydra.runtime.choices.items()
            if not group.startswith("hydra") and "@" not in group
        }
        self.groups = sorted(self.chosen)
        values: Any = OmegaConf.to_container(cfg)
        self.values = {key: value for key, value in values.items() if key != "hydra"}
        self.meanings: dict[str, str] = {}
        self.sections: dict[str, str] = {}
        self._read(name, "")
        for group, option in self.chosen.items():
            if option:
                self._read(f"{group}/{option}", group)

    def _read(self, name: str, package: str) -> None:
        """The comments of a config file, under those of the files that it is built on."""
        path = self._path(name)
        if path is None:
            return
        comments = read_comments(path)
        package = "" if comments.is_global else package
        folder = name.rpartition("/")[0]
        for other in comments.defaults:
            other, _, inside = other.partition("@")
            whole = other[1:] if other.startswith("/") else f"{folder}/{other}"
            self._read(whole, _under(package, inside) if inside else package)
        self.meanings |= {_under(package, key): c for key, c in comments.keys.items()}
        self.sections |= {_under(package, key): c for key, c in comments.sections.items()}

    def _path(self, name: str) -> Path | None:
        paths = (folder / f"{name}.yaml" for folder in reversed(self.folders))
        return next((path for path in paths if path.is_file()), None)

    def everything(self) -> Iterator[str]:
        yield ""
        for key, value in self.values.items():
            if not isinstance(value, Mapping):
                yield from self._line(key, value)
        for key, value in self.values.items():
            if isinstance(value, Mapping):
                title, meaning = key, self.meanings.get(key, "")
                if option := self.chosen.get(key):
                    title, meaning = f"{key}={option}", self._about(key, option)
                yield from ["", *_beside(title, meaning, KEY_COLUMN, indent="")]
                yield from self._lines(value, key, hidden=HOW_MADE)

    def topic(self, topic: str) -> str:
        """What a group or a key is."""
        topic = topic.rstrip("=")
        lines: list[str] = []
        value = self._at(topic)
        offered = options(self.folders, topic)
        if offered:
            now = f" (now: {self.chosen[topic]})" if self.chosen.get(topic) else ""
            lines = [f"{topic}=…{now}", ""]
            for option in offered:
                lines += _beside(option, _first_sentence(self._about(topic, option)), OPTION_COLUMN)
        if isinstance(value, Mapping) and value:
            lines += ["", f"Its keys now ({topic}.key=value):", ""] if lines else []
            lines += [*self._line_of_node(topic), *self._lines(value, topic)]
        elif value is not _NOTHING and not offered:
            lines += self._line(topic, value)
        if not lines:
            from lmlab.config.check import keys  # here, for it imports pydantic

            known = sorted({*self.groups, *keys(self.values)})
            raise LabError(f"--help {topic}: no such group and no such key{nearest(topic, known)}")
        return "\n".join(lines)

    def _at(self, key: str) -> Any:
        node: Any = self.values
        for name in key.split("."):
            if not isinstance(node, Mapping) or name not in node:
                return _NOTHING
            node = node[name]
        return node

    def _about(self, group: str, option: str) -> str:
        path = self._path(f"{group}/{option}")
        return read_comments(path).about if path is not None else ""

    def _lines(
        self, node: Mapping[str, Any], prefix: str, hidden: tuple[str, ...] = ()
    ) -> Iterator[str]:
        for key, value in node.items():
            whole = f"{prefix}.{key}"
            if key in hidden:
                continue
            if whole in self.sections:
                yield from ["", *_wrapped(self.sections[whole], "  # ", "  # ")]
            if isinstance(value, Mapping) and value:
                yield from self._line_of_node(whole)
                yield from self._lines(value, whole, hidden)
            else:
                yield from self._line(whole, value)

    def _line_of_node(self, key: str) -> list[str]:
        meaning = self.meanings.get(key, "")
        return _beside(key, meaning, KEY_COLUMN) if meaning else []

    def _line(self, key: str, value: Any) -> list[str]:
        shown = value if value == "???" or "${" in str(value) else in_grammar(value)
        return _beside(f"{key}={shown}", self.meanings.get(key, ""), KEY_COLUMN)


_NOTHING = object()


@cache
def read_comments(path: Path) -> Comments:
    """The comments of a YAML file: at its head, over a section, and over or beside a key.

    What no blank line parts from a key belongs to the key, unless the file begins with it.
    """
    text = path.read_text("utf-8")
    lines = text.splitlines()
    comments = Comments(_joined(_head(lines)), is_global=text.startswith("# @package _global_"))

    def visit(node: Any, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            if key == "defaults":
                built_on = [entry.value for entry in value.value if isinstance(entry.value, str)]
                comments.defaults.extend(entry for entry in built_on if entry != "_self_")
                continue
            is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
            mark = name.end_mark if is_block else value.end_mark
            beside = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
            over, stands_apart = _over(lines, name.start_mark.line, name.start_mark.column)
            if over and stands_apart:
                comments.sections[key] = _joined(over)
                over = []
            parts = [_joined(re.findall(r"^[\s:]*(#.*)", beside)), _joined(over)]
            if meaning := ". ".join(part for part in parts if part):
                comments.keys[key] = meaning
            visit(value, f"{key}.")

    visit(yaml.compose(text, yaml.CSafeLoader), "")
    return comments


def _head(lines: list[str]) -> list[str]:
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line)
    return head


def _over(lines: list[str], line: int, column: int) -> tuple[list[str], bool]:
    """The comment right over a line, and whether it stands apart from what is over it."""
    begin = line
    while begin and lines[begin - 1].startswith(" " * column + "#"):
        begin -= 1
    if begin == 0:  # the file's own
        return [], False
    return lines[begin:line], not lines[begin - 1].strip()


def _joined(comment: list[str]) -> str:
    return " ".join(line.strip().lstrip("#").strip() for line in comment).strip()


def _under(package: str, key: str) -> str:
    return f"{package}.{key}" if package else key


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;])\s(?=[A-Z])", text, maxsplit=1)[0].rstrip(".;")


def _beside(left: str, right: str, column: int, indent: str = "  ") -> list[str]:
    """Two columns; the right one is wrapped, below the left one where that is too long."""
    left = indent + left
    if not right:
        return [left]
    pad = " " * column
    wrapped = _wrapped(right, pad, pad)
    if len(left) + 2 > column:
        return [left, *wrapped]
    return [left.ljust(column) + wrapped[0].lstrip(), *wrapped[1:]]


def _wrapped(text: str, first: str, others: str) -> list[str]:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    return textwrap.wrap(
        text,
        max(width, 60),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )

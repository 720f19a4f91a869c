"""What the site has beside the pages of docs/: a hook of MkDocs' (see mkdocs.yml).

The README is its first page, the notebook a page like the others, and the reference of all keys is
made of the comments in conf/. Links to files that are no pages name the file.
"""

import base64
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lmlab.config.words.compose import options
from lmlab.config.words.help import HOW_MADE, read_comments
from lmlab.config.words.python_words import in_grammar

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
COMMANDS = ("train", "evaluate", "generate", "export")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    files.append(File.generated(config, "index.md", content=_readme()))
    files.append(File.generated(config, "reference.md", content=reference()))
    notebook = files.get_file_from_path("lecture.ipynb")
    assert notebook is not None
    files.remove(notebook)
    body, pictures = _notebook(ROOT / "docs" / "lecture.ipynb")
    files.append(File.generated(config, "lecture.md", content=body))
    for name, picture in pictures.items():
        files.append(File.generated(config, name, content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to pages; what is no page is named."""
    folder = posixpath.dirname(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        if path.endswith(".ipynb"):
            return f"{picture}[{text}]({path.removesuffix('.ipynb')}.md{hash_}{anchor})"
        inside = posixpath.normpath(posixpath.join(folder, path))
        if inside.startswith("..") and (ROOT / "docs" / inside).exists():
            shown = (ROOT / "docs" / inside).resolve().relative_to(ROOT).as_posix()
            return text if shown in text else f"{text} (`{shown}`)"
        return match[0]  # MkDocs says what leads nowhere

    return LINK.sub(led, markdown)


def _readme() -> str:
    """The README, seen from docs/."""

    def led(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if "://" not in target and not target.startswith("#"):
            target = posixpath.relpath(target, "docs")
        return f"{picture}[{text}]({target})"

    return LINK.sub(led, (ROOT / "README.md").read_text("utf-8"))


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            continue
        lines += ["```python", cell.source, "```", ""]
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"lecture-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                lines += [f"![]({name})", ""]
            elif "text/html" in data and "<table" in data["text/html"]:
                lines += [re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL), ""]
            else:
                lines += ["```text", data["text/plain"].rstrip(), "```", ""]
    return "\n".join(lines), pictures


def reference() -> str:
    """Every key of every command, with its default and what it means."""
    lines = [
        "# Every key",
        "",
        "Made of the comments in `conf/`, as `--help` is. A key of a group has",
    ]
    lines += ["the option before it: `model=gpt model.n_layer=6`.", ""]
    lines += ["## The command `train`", "", *_table(CONF / "train.yaml")]
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    for group in groups:
        lines += ["", f"## `{group}=`", ""]
        for option in options([CONF], group):
            path = CONF / group / f"{option}.yaml"
            about = read_comments(path).about
            lines += [f"### `{group}={option}`", "", about, ""]
            if group not in ("experiment", "sweep"):
                lines += [*_table(path, f"{group}."), ""]
    for command in COMMANDS[1:]:
        lines += ["", f"## The command `{command}`", "", *_table(CONF / f"{command}.yaml")]
    return "\n".join(lines) + "\n"


def _table(path: Path, prefix: str = "") -> list[str]:
    comments, content = read_comments(path), yaml.safe_load(path.read_text("utf-8")) or {}
    rows: list[str] = []

    def visit(node: dict[str, Any], inside: str) -> None:
        for key, value in node.items():
            whole = f"{inside}{key}"
            if key in (*HOW_MADE, "defaults") or key.startswith("override "):
                continue
            meaning = comments.keys.get(whole, "").replace("|", "\\|")
            nested = isinstance(value, dict) and value
            default = "" if nested else f"`{value if value == '???' else in_grammar(value)}`"
            rows.append(f"| `{prefix}{whole}` | {default} | {meaning} |")
            if nested:
                visit(value, f"{whole}.")

    visit(content, "")
    return ["| key | default | |", "|---|---|---|", *rows] if rows else []

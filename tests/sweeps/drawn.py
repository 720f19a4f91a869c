"""What stands in a chart: its data, scales and words, from its Vega-Lite description."""

import json
from collections.abc import Iterator
from typing import Any


def nodes(chart: Any) -> Iterator[dict[str, Any]]:
    """Every object of the description."""
    todo = [chart if isinstance(chart, dict) else chart.to_dict()]
    while todo:
        node = todo.pop(0)
        if isinstance(node, dict):
            yield node
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []


def rows(chart: Any, *fields: str) -> list[dict[str, Any]]:
    """The rows of data with these fields, each once."""
    tables = [node["values"] for node in nodes(chart) if isinstance(node.get("values"), list)]
    tables += [
        values for node in nodes(chart) for values in node.get("datasets", {}).values()
    ]  # of several charts beside each other
    different: dict[str, dict[str, Any]] = {}
    for row in (row for table in tables for row in table if isinstance(row, dict)):
        if set(fields) <= row.keys():
            different[json.dumps(row)] = row
    return list(different.values())


def encoding(chart: Any, channel: str) -> dict[str, Any]:
    """How the first layer that has it draws a channel."""
    return next(node["encoding"][channel] for node in nodes(chart)
                if channel in node.get("encoding", {}))  # fmt: skip


def words(chart: Any) -> str:
    """Everything that is written: titles, labels."""
    return json.dumps(chart.to_dict(), ensure_ascii=False)


def labels(chart: Any, channel: str) -> list[str]:
    """The words of an axis, or of a legend (`color`)."""
    about = encoding(chart, channel)
    expression = (about.get("axis") or about.get("legend"))["labelExpr"]
    return json.loads(expression.removesuffix("[datum.value]"))

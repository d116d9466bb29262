"""TOML beyond tomllib: on which line each key stands, for messages, and tables written as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Location = tuple[str | int, ...]

_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEY})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY})\s*=")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def lines(text: str) -> dict[Location, int]:
    """The line, from 1, of every table and key of a TOML text; the n-th table of an array has the number n, from 0.

    Keys inside an inline table have no line of their own.

    >>> lines('seed = 1\\n[[step]]\\nmethod = "x"\\n[step.retrain]\\nlr = 0.1')
    {('seed',): 1, ('step', 0): 2, ('step', 0, 'method'): 3, ('step', 0, 'retrain'): 4, ('step', 0, 'retrain', 'lr'): 5}
    """
    found: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    table: Location = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _in_arrays(_parts(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, 0) + 1
                table = (*table, counts[table] - 1)
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            found.setdefault((*table, *_parts(assignment[1])), number)
    return found


def line_of(location: Location, known: Mapping[Location, int]) -> int | None:
    """The line of the nearest thing around `location` that has one."""
    while location not in known and location:
        location = location[:-1]
    return known.get(location)


def _parts(key: str) -> Location:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


def _in_arrays(location: Location, counts: Mapping[Location, int]) -> Location:
    """The location with the number of the current table put in after every array of tables, except at its end."""
    resolved: Location = ()
    for index, part in enumerate(location):
        resolved = (*resolved, part)
        if index < len(location) - 1 and resolved in counts:
            resolved = (*resolved, counts[resolved] - 1)
    return resolved


def text(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A table as TOML text: values first, then tables, then arrays of tables; entries that are None are left out.

    >>> print(text({"seed": 1, "step": [{"method": "m", "bits": {"fc*": 2}, "retrain": {"lr": 0.1}}]}), end="")
    seed = 1
    <BLANKLINE>
    [[step]]
    method = "m"
    bits = { "fc*" = 2 }
    <BLANKLINE>
    [step.retrain]
    lr = 0.1
    """
    entries = {name: value for name, value in table.items() if value is not None}
    plain = [name for name in entries if not _is_table(entries[name]) and not _is_array(entries[name])]
    parts = ["".join(f"{_key(name)} = {_value(entries[name])}\n" for name in plain)]
    for name, value in entries.items():
        header = ".".join(_key(part) for part in (*path, name))
        if _is_table(value):
            parts.append(f"[{header}]\n{text(value, (*path, name))}")
        elif _is_array(value):
            parts += [f"[[{header}]]\n{text(item, (*path, name))}" for item in value]
    return "\n".join(part for part in parts if part)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(_BARE.fullmatch(name) for name in value)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _string(str(value))

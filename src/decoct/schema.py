"""A method's fields as a pydantic model: what a recipe's table may hold, and the dataclass made from it.

A method stays a plain frozen dataclass; the model is derived from its annotations when a recipe is read, so types are
checked strictly (a string is no number, a number no truth value) and the JSON schema for editors says what they say.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache, reduce
from importlib import import_module
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from decoct.errors import nearest
from decoct.toml import Location

Problem = tuple[Location, str]
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


@lru_cache
def model_of(method: type) -> type[BaseModel]:
    """The pydantic model of a dataclass; a field that is a dataclass itself becomes a table."""
    hints = get_type_hints(method)
    fields: dict[str, Any] = {
        field.name: (_annotation(hints[field.name]), _default(field)) for field in dataclasses.fields(method)
    }
    return create_model(method.__name__, __config__=STRICT, __doc__=method.__doc__, **fields)


def _annotation(annotation: Any) -> Any:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return model_of(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, map(_annotation, get_args(annotation)))
    return annotation


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else ...


def build(method: type, table: Mapping[str, Any]) -> Any:
    """The method from a recipe's table, without its ``method`` key; what the table leaves out keeps its default.

    Raises TableError, with every key that is wrong.
    """
    return _construct(method, validate(model_of(method), table), ())


def validate(model: type[BaseModel], table: Mapping[str, Any]) -> BaseModel:
    """The table as a pydantic model; TableError, with every key that is wrong."""
    try:
        return model.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise TableError(problems(error, model, table)) from error


def _construct(method: type, values: BaseModel, location: Location) -> Any:
    hints = get_type_hints(method)
    arguments = {}
    for name in values.model_fields_set:
        value = getattr(values, name)
        inner = _dataclass_in(hints[name]) if isinstance(value, BaseModel) else None
        arguments[name] = value if inner is None else _construct(inner, value, (*location, name))
    try:
        return method(**arguments)
    except (ValueError, TypeError) as error:
        named = next((name for name in arguments if name in str(error).partition(",")[0].split()), None)
        raise TableError([((*location, named) if named else location, str(error))]) from error


def _dataclass_in(annotation: Any) -> type | None:
    options = [annotation, *get_args(annotation)]
    return next((option for option in options if dataclasses.is_dataclass(option) and isinstance(option, type)), None)


def described(method: type) -> dict[str, Any]:
    """A method in plain values: its summary, its paper (the docstring of its module), its class and its fields."""
    paper = inspect.getdoc(import_module(method.__module__)) or ""
    fields = [
        {"name": field.name, "type": str(field.type), "default": _plain(_default(field))}
        for field in dataclasses.fields(method)
    ]
    about = inspect.getdoc(method) or ""
    return {"summary": about.partition("\n")[0], "paper": paper, "about": about, "fields": fields}


def _plain(value: Any) -> Any:
    if value is ...:
        return "needed"
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class TableError(ValueError):
    """What is wrong with a table: each a location in it and what was found there."""

    def __init__(self, found: list[Problem]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.problems = found


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a table",
    "model_type": "a table",
    "none_required": "nothing",
    "string_type": "a text",
    "tuple_type": "a list",
}


def problems(error: ValidationError, model: type[BaseModel], table: Mapping[str, Any]) -> list[Problem]:
    """Pydantic's findings in our words, one per place in `table`."""
    found: dict[Location, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        missing = detail["loc"][-1:] if detail["type"] == "missing" else ()
        found.setdefault((*_inside(detail["loc"], table), *missing), []).append(detail)
    return [(location, _message(location, details, model)) for location, details in found.items()]


def _inside(location: Location, table: Any) -> Location:
    """The parts of pydantic's location that are keys of the table; the rest names branches of its schema."""
    inside: Location = ()
    for part in location:
        if (isinstance(table, Mapping) and part in table) or (isinstance(table, list) and isinstance(part, int)):
            table = table[part]  # type: ignore[index]
            inside = (*inside, part)
    return inside


def _message(location: Location, details: list[ErrorDetails], model: type[BaseModel]) -> str:
    kinds = {detail["type"] for detail in details}
    name = str(location[-1]) if location else "it"
    if "extra_forbidden" in kinds:
        allowed = list(_model_at(model, location[:-1]).model_fields)
        return f"unknown key {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed) or 'none'}"
    if "missing" in kinds:
        return f"the key {name!r} is missing"
    words = [_EXPECTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ") for detail in details]
    return f"{name} must be {' or '.join(dict.fromkeys(words))}, not {details[0]['input']!r}"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel]:
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        model = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), model)
    return model

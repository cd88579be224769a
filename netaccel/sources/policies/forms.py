# SPDX-License-Identifier: Apache-2.0
"""What the schemas of all policy kinds share: strict forms, and pydantic's complaints in words of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from netaccel.errors import ObjectError

_CONFIG = ConfigDict(frozen=True, strict=True, alias_generator=to_camel, hide_input_in_errors=True)


class Form(BaseModel):
    """A mapping of known fields. Null means absent, as everywhere in Kubernetes."""

    model_config = ConfigDict(**_CONFIG, extra="forbid")


class OpenForm(BaseModel):
    """A mapping that a newer API may have added to: see :func:`unknown`."""

    model_config = ConfigDict(**_CONFIG, extra="allow")


_F = TypeVar("_F", bound=BaseModel)


def read(form: type[_F], value: object, path: str) -> _F:
    """Read builtins as a form. Raises ObjectError with the first thing that is wrong."""
    try:
        return form.model_validate(value)
    except ValidationError as err:
        raise _object_error(err, path) from err
    except RecursionError as err:
        raise ObjectError(path, "is nested too deeply: flatten it") from err


def unknown(form: OpenForm) -> tuple[str, ...]:
    """Names of the fields that aren't known, those that are null left out."""
    return tuple(sorted(name for name, value in (form.model_extra or {}).items() if value is not None))


def given(form: BaseModel) -> list[str]:
    """Names of the known fields that are there, as objects write them."""
    fields = type(form).model_fields.items()
    return [info.alias or name for name, info in fields if getattr(form, name) is not None]


_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}


def kind_of(value: object) -> str:
    """What a JSON value is, for people."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a fraction"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _object_error(error: ValidationError, root: str) -> ObjectError:
    """Say the first problem and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _path(root, first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ObjectError(
        path, _reason(first["type"], first["input"], first.get("ctx", {}), first["msg"]) + more
    )


def _reason(problem: str, given: Any, context: dict[str, Any], message: str) -> str:
    if problem in _WANTED:
        return f"is {kind_of(given)}: give {_WANTED[problem]}"
    match problem:
        case "missing":
            return "is missing: give it"
        case "extra_forbidden":
            return "is no field here: correct its name, or remove it"
        case "literal_error":
            return f"{shown(given)} is not a value of it: give {context['expected'].replace(chr(39), '')}"
        case "too_short":
            return "is empty: give at least one"
        case "too_long":
            return f"has {context['actual_length']} entries: give at most {context['max_length']}"
        case "string_too_long":
            return f"is too long: use at most {context['max_length']} characters"
        case "greater_than_equal":
            return f"{given} is out of range: give {context['ge']} or more"
        case "less_than_equal":
            return f"{given} is out of range: give {context['le']} or less"
    return f"{message[:1].lower()}{message[1:]}: correct it"


def _path(root: str, location: Sequence[int | str]) -> str:
    """``spec.ingress[0].from`` from pydantic's location."""
    path = root
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def shown(value: object) -> str:
    """The value as text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:61]}..."

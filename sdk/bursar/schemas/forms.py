"""The forms of single values: durations, sizes, money, names, as editors check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]

DURATION_UNITS: Final = "us|ms|s|m|h|d|w"
_NUMBER: Final = r"\d+(\.\d+)?"
DURATION: Final = rf"^\s*({_NUMBER}\s*({DURATION_UNITS})\s*)+$"
DURATION_OR_YEARS: Final = rf"^\s*(({_NUMBER}\s*({DURATION_UNITS})\s*)+|{_NUMBER}\s*y)\s*$"
SIZE: Final = rf"^\s*{_NUMBER}\s*([KMGTPkmgtp][Ii]?[Bb]?|[Bb])\s*$"
MONEY: Final = r"^\s*\+?(?=[\d.]*[1-9])\d{1,12}(\.\d{1,9})?\s*[A-Z]{3}\s*$"
PROJECT: Final = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,7}$"
TOKEN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
PERCENT: Final = rf"^\s*{_NUMBER}\s*%\s*$"
INSTANT: Final = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$"
SCALAR: Final = ("string", "number", "boolean")
"""What stands in YAML without quotes is a text to the parsers, also where it looks like a number."""


def text(description: str, pattern: str = "", **more: Any) -> Schema:
    """A text of a form."""
    return {"type": "string", **({"pattern": pattern} if pattern else {}), "description": description, **more}


def scalar(description: str, **more: Any) -> Schema:
    """Any one value, taken as the text it is written as."""
    return {"type": [*SCALAR], "description": description, **more}


def money(description: str) -> Schema:
    """`500 USD`, above 0."""
    return text(description, MONEY, examples=["500 USD"])


def money_per(unit: str, description: str, *, positive: bool = True) -> Schema:
    """`40 USD/h`."""
    least = r"(?=[\d.]*[1-9])" if positive else ""
    pattern = rf"^\s*\+?{least}\d{{1,12}}(\.\d{{1,9}})?\s*[A-Z]{{3}}\s*/\s*{unit}\s*$"
    return text(description, pattern, examples=[f"40 USD/{unit}"])


def duration(description: str, **more: Any) -> Schema:
    """`90s`, `1h30m`."""
    return text(description, DURATION, **{"examples": ["90s", "15m", "24h", "7d"], **more})


def whole(description: str, minimum: int, maximum: int | None = None, **more: Any) -> Schema:
    """A whole number."""
    bounds: Schema = {"minimum": minimum, **({} if maximum is None else {"maximum": maximum})}
    return {"type": "integer", **bounds, "description": description, **more}


def number(description: str, minimum: float, maximum: float) -> Schema:
    """A number."""
    return {"type": "number", "minimum": minimum, "maximum": maximum, "description": description}


def boolean(description: str, default: bool) -> Schema:
    """`true` or `false`."""
    return {"type": "boolean", "default": default, "description": description}


def word(description: str, words: Sequence[str], default: str | None = None) -> Schema:
    """One of a closed list."""
    return {"enum": [*words], **({} if default is None else {"default": default}), "description": description}


def mapping(
    description: str, properties: Mapping[str, Schema], required: Sequence[str] = (), **more: Any
) -> Schema:
    """A mapping with these keys and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        **({"required": [*required]} if required else {}),
        "additionalProperties": False,
        "description": description,
        **more,
    }


def pairs(description: str, names: str, **more: Any) -> Schema:
    """A mapping with free names, each with one value."""
    return {
        "type": "object",
        "propertyNames": {"pattern": names},
        "additionalProperties": {"type": [*SCALAR]},
        "description": description,
        **more,
    }


def items(description: str, item: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": item, "description": description, **more}


def either(description: str, *forms: Schema, **more: Any) -> Schema:
    """One of several forms."""
    return {"anyOf": [*forms], "description": description, **more}

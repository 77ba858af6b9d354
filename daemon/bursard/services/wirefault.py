"""What is wrong with bytes that are no message: the field they break in, for the caller's sake.

Why     protobuf says only that it could not parse. Whoever writes a client wants to know where.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from bursar.errors import InvalidRequest

DEPTH_MAX: Final = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Broken(Exception):
    """Found: the path of the field, and what is wrong there."""


def unreadable(descriptor: Any, data: bytes) -> InvalidRequest:
    """The error for bytes that `descriptor`'s message could not be read from."""
    try:
        _walk(descriptor, data, "", DEPTH_MAX)
    except _Broken as found:
        path, what = found.args
        if path:
            return InvalidRequest(f"{path}: {what}", {"field": path})
    return InvalidRequest(f"the request is no {descriptor.full_name} message: its bytes cannot be read")


def _walk(descriptor: Any, data: bytes, path: str, depth: int) -> None:
    at = 0
    while at < len(data):
        key, at = _varint(data, at, path)
        field = descriptor.fields_by_number.get(key >> 3)
        name = f"{path}{field.name}" if field is not None else path.removesuffix(".")
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(data, at, name)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at, name)
            part, at = data[at : at + length], at + length
            if at <= len(data) and field is not None:
                _inside(field, part, name, depth)
        else:
            raise _Broken(name, "the bytes here are of no kind that there is")
        if at > len(data):
            raise _Broken(name, "the bytes end in the middle of it")


def _inside(field: Any, part: bytes, name: str, depth: int) -> None:
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            part.decode()
        except UnicodeDecodeError as error:
            raise _Broken(name, f"byte {error.start} of the text is not UTF-8") from None
    elif field.message_type is not None and depth:
        _walk(field.message_type, part, name + ".", depth - 1)


def _varint(data: bytes, at: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift >= 70:
            raise _Broken(name.removesuffix("."), "a number here is longer than any that there is")
    raise _Broken(name.removesuffix("."), "the bytes end in the middle of a number")

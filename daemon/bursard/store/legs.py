"""The lines of one ledger transaction as one value: accounts by number, amounts beside them.

Format  MessagePack, one flat list: an account, its nanos, the next account, its nanos. An account is its
        number in the table `accounts`; 0 for that of the job which the transaction is about; or, if it is of
        another job, its whole name: such names are met once each, and a table of them would save nothing.
        An amount past 64 bits is its decimal digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

Leg = tuple[str, int]
"""Account and nanos."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[int | str])
_OF_ONE_JOB = "job/"
_WIDE = 1 << 63


def is_numbered(account: str) -> bool:
    """Does this account stand in the table of names?"""
    return not account.startswith(_OF_ONE_JOB)


def pack(legs: Iterable[Leg], numbers: Mapping[str, int], job_id: str = "") -> bytes:
    """`numbers`: of every account among them that is numbered."""
    flat: list[int | str] = []
    for account, nanos in legs:
        if is_numbered(account):
            flat.append(numbers[account])
        else:
            flat.append(0 if job_id and account == _OF_ONE_JOB + job_id else account)
        flat.append(nanos if -_WIDE <= nanos < _WIDE else str(nanos))
    return _ENCODER.encode(flat)


def numbers_in(value: bytes) -> set[int]:
    """Numbers of the accounts that a value names; none of one that cannot be read."""
    try:
        flat = _DECODER.decode(value)
    except msgspec.MsgspecError:
        return set()
    return {account for account in flat[::2] if isinstance(account, int)} - {0}


def unpack(value: bytes, names: Mapping[int, str], job_id: str = "") -> tuple[Leg, ...]:
    """The inverse. Raises `ValueError` for what is no such list."""
    try:
        flat = _DECODER.decode(value)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the lines are damaged: {error}") from error
    accounts, amounts = flat[::2], flat[1::2]
    if len(accounts) != len(amounts):
        raise ValueError("the lines are damaged: an account without its amount")
    return tuple(
        (account if isinstance(account, str) else _named(account, names, job_id), _amount(nanos))
        for account, nanos in zip(accounts, amounts, strict=True)
    )


def _amount(value: int | str) -> int:
    if isinstance(value, int):
        return value
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 100):
        raise ValueError("the lines are damaged: an account without its amount")
    return int(value)


def _named(number: int, names: Mapping[int, str], job_id: str) -> str:
    if not number and job_id:
        return _OF_ONE_JOB + job_id
    if number not in names:
        raise ValueError(f"the lines are damaged: there is no account of number {number}")
    return names[number]


def total(legs: Sequence[Leg]) -> int:
    """What they sum to: 0 in a sound transaction (L1)."""
    return sum(nanos for _, nanos in legs)

"""Damage to records. What is read is refused in one line, or equals what was written: never a third thing."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import Record, fingerprint

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, -1e-308, 2**31, 2**63, 2**64, -(2**63), 10**400, "", "0", "3"),
    *("nan", "é\n\x1b[31m", "\ud800", "../../up", "/etc/passwd", "a" * 5000, [], {}, [[]], [None], {"": None}),
    *({"a\nb": 1}, float("nan"), float("inf"), "2026-01-01", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59Z"),
)


def record_case(rng: random.Random, record: Record) -> bytes:
    """What is in the file of a record after it was damaged in some way, without its checksum being made anew."""
    whole = _text(record | {"checksum": fingerprint(record)})
    return rng.choice(_DAMAGES)(rng, whole)


def forged_case(rng: random.Random, record: Record) -> bytes:
    """A record with a few other values, whose checksum is right: only its schema can refuse it."""
    forged = copy.deepcopy(record)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        _change(rng, forged)
    return _text(forged | {"checksum": fingerprint(forged)})


def outcome(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or None if it refuses in one line of moderate length; any other error passes."""
    try:
        return read()
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 2000
    return None


def _text(record: Any) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with each of its keys or positions."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _change(rng: random.Random, record: Any) -> None:
    container, key = rng.choice(list(_places(record)))
    kind = rng.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(["another", "a\nb", "\ud800", "__class__", "schema"])] = container.pop(key)
    elif kind == 2:
        other, place = rng.choice(list(_places(record)))
        container[key] = copy.deepcopy(other[place])
    else:
        container[key] = rng.choice(_VALUES)


def _structure(rng: random.Random, whole: bytes) -> bytes:
    found = json.loads(whole)
    _change(rng, found)
    return _text(found)


def _digit(rng: random.Random, whole: bytes) -> bytes:
    place = rng.choice([i for i, byte in enumerate(whole) if chr(byte).isdigit()])
    other = rng.choice(b"0123456789".replace(whole[place : place + 1], b"")).to_bytes()
    return whole[:place] + other + whole[place + 1 :]


def _bit(rng: random.Random, whole: bytes) -> bytes:
    place = rng.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]


def _piece(rng: random.Random, whole: bytes) -> bytes:
    """A piece is lost, doubled, or replaced by something."""
    start, end = sorted(rng.randrange(len(whole) + 1) for _ in range(2))
    other = [b"", rng.randbytes(20), b"NaN", b"1e999", b"9" * 5000]
    middle = rng.choice([*other, 2 * whole[start:end], bytes(end - start)])
    return whole[:start] + middle + whole[end:]


def _null(rng: random.Random, whole: bytes) -> bytes:
    """Another constant or number in the place of a null, or of a number."""
    texts = [b"null", *(str(n).encode() for n in range(10))]
    return whole.replace(rng.choice(texts), rng.choice([b"NaN", b"-Infinity", b"1e999", b"null", b"0", b"true"]), 1)


def _foreign(rng: random.Random, whole: bytes) -> bytes:
    depth = rng.choice([900, 5000, 200_000])
    nested = whole.replace(b"[]", b"[" * depth + b"]" * depth, 1)
    plain = [b"", b"{}", b"[]", b"null", b"2", b'{"schema": 1}', b'{"schema": 2}']
    other = [*plain, b"[" * depth, b'{"a":' * depth, nested, rng.randbytes(500), whole.decode().encode("utf-16")]
    return rng.choice([*other, b"\xef\xbb\xbf" + whole, whole + whole])


_DAMAGES = (_structure, _structure, _digit, _bit, _piece, _null, _foreign)

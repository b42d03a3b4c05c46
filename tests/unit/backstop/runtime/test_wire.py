"""Requests and responses have the bytes and values that aiokafka's own codec gives them."""

import inspect
from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol import admin, commit, coordination, fetch, group, metadata, offset, produce, transaction
from aiokafka.protocol.api import RequestHeader_v1, RequestHeader_v2, ResponseHeader_v0
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Boolean, Bytes, Float64, Int8, Int16, Int32, Int64, Schema, String, UInt32
from hypothesis import given
from hypothesis import strategies as st

from backstop.runtime.kafka import wire

MODULES = (admin, commit, coordination, fetch, group, metadata, offset, produce, transaction)


def _kinds() -> list[Any]:
    found: list[tuple[str, Any]] = [each for module in MODULES for each in inspect.getmembers(module, inspect.isclass)]
    kinds = {kind for _, kind in found if issubclass(kind, Struct) and kind.SCHEMA.fields}
    return sorted(kinds, key=lambda kind: str(kind.__name__))


KINDS = _kinds()
COMPILED = [kind for kind in (*KINDS, ResponseHeader_v0) if wire.compiled(kind) is not None]
OWN_ENCODE, OWN_DECODE = wire._encode, wire._decode


def _integers(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, Schema):
        return st.tuples(*(values_of(each) for each in kind.fields))
    if isinstance(kind, Array):
        return st.none() | st.lists(values_of(kind.array_of), max_size=3)
    if isinstance(kind, String):
        return st.none() | st.text(max_size=5)
    return {
        Int8: _integers(8), Int16: _integers(16), Int32: _integers(32), Int64: _integers(64),
        UInt32: _integers(32, signed=False), Boolean: st.booleans(), Float64: st.floats(allow_nan=False),
        Bytes: st.none() | st.binary(max_size=40),
    }[kind]  # fmt: skip


messages = st.sampled_from(COMPILED).flatmap(
    lambda kind: values_of(kind.SCHEMA).map(lambda values: (kind, values)),
)


def fields(message: Struct) -> list[Any]:
    return [message.__dict__[name] for name in message.SCHEMA.names]


@given(messages, st.binary(max_size=8), st.binary(max_size=8))
def test_bytes_and_values_are_aiokafkas(drawn: tuple[type[Struct], Any], before: bytes, after: bytes) -> None:
    kind, values = drawn
    message = kind(*values)
    data = OWN_ENCODE(message)
    assert wire.encode(message) == data
    assert fields(wire.decode(kind, data)) == fields(OWN_DECODE(kind, data))
    stream = BytesIO(before + data + after)
    stream.seek(len(before))
    assert fields(wire.decode(kind, stream)) == list(values)
    assert stream.tell() == len(before) + len(data)


@given(messages, st.data())
def test_damaged_bytes_are_read_or_refused_as_by_aiokafka(drawn: tuple[type[Struct], Any], data: st.DataObject) -> None:
    kind, values = drawn
    whole = OWN_ENCODE(kind(*values))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from((0, 1, 0x7F, 0xFF)))
    if any(damaged[at : at + 2] == b"\x7f\xff" or damaged[at] == 0x7F for at in range(len(damaged))):
        return  # a count of two thousand millions keeps aiokafka busy for minutes
    try:
        expected: Any = fields(OWN_DECODE(kind, bytes(damaged)))
    except ValueError as error:
        expected = type(error)
    try:
        found: Any = fields(wire.decode(kind, bytes(damaged)))
    except ValueError as error:
        found = type(error)
    assert repr(found) == repr(expected)  # a damaged float may be NaN


@pytest.mark.parametrize("values", [("a", 1), ("a", None), (2**40, 1), ("a", 1, 3)])
def test_a_value_that_does_not_fit_raises_as_in_aiokafka(values: tuple[Any, ...]) -> None:
    message = produce.ProduceRequest_v7(None, -1, 30_000, [("jobs", [values])])
    with pytest.raises(Exception) as own:
        OWN_ENCODE(message)
    with pytest.raises(type(own.value)):
        wire.encode(message)


def test_the_requests_of_each_hop_are_compiled_and_those_with_tags_are_not() -> None:
    hops = (fetch.FetchRequest_v11, fetch.FetchResponse_v11, produce.ProduceRequest_v7, produce.ProduceResponse_v7)
    assert all(wire.compiled(kind) for kind in (*hops, RequestHeader_v1, ResponseHeader_v0))
    assert len(COMPILED) > 60
    assert wire.compiled(RequestHeader_v2) is None

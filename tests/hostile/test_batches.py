"""Any bytes that a broker returns: each offset gives a record or a dead letter, in order, and each read ends."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.kafka.record_formats import HEADERS_MAX
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.records import record_of
from schemas.codec import PoisonError, decode, encode
from schemas.dead_letters import DEAD_LETTER
from schemas.requests import REQUEST
from schemas.unreadable import Unreadable
from tests.hostile.batches import CODECS, GZIP, LZ4, NONE, SNAPPY, Batch, Headers, Read, compress, message, record
from tests.support.search import examples

BAD_NAME: Headers = ((b"\xff", b"x"),)
NULLS: Headers = ((b"a", None), (b"", b""))
CONTROL, TRANSACTIONAL = 0x20, 0x10
ABORT = record(b"\0" * 6, b"\0\0\0\0")
TWICE_PACKED = message(compress(GZIP, message(b"x")), codec=GZIP)


def shown(read: Read) -> list[tuple[int, bytes | None, str]]:
    """Offset and value of each record, and for an unreadable one the reason."""
    records: list[Any] = read.records
    return [(each.offset, each.value, getattr(each.value, "detail", "")) for each in records]


def assert_stepped_over(data: bytes, why: str, honest_at: int = 1) -> None:
    """The first batch of `data` is one stand-in, and the honest record behind it is read."""
    found = shown(Read(data + Batch((record(b"honest"),), base=honest_at).bytes(), end=honest_at + 1))
    assert [offset for offset, _, _ in found] == [honest_at - 1, honest_at]
    assert why in found[0][2]
    assert found[0][2].startswith("offset 0" if honest_at == 1 else f"offsets 0 to {honest_at - 1}")
    assert found[1][1:] == (b"honest", "")


@pytest.mark.parametrize("codec", CODECS, ids=CODECS.values())
def test_every_codec_is_read_with_null_keys_values_and_headers(codec: int) -> None:
    records = (record(b"v", headers=NULLS), record(None, None, offset=1), record(b"", b"", offset=2))
    found = Read(Batch(records, codec=codec).bytes()).records
    assert [(each.offset, each.key, each.value, each.headers) for each in found] == [  # type: ignore[attr-defined]
        (0, b"k", b"v", (("a", None), ("", b""))), (1, None, None, ()), (2, b"", b"", ())
    ]  # fmt: skip


@pytest.mark.parametrize("codec", CODECS, ids=CODECS.values())
def test_one_bad_record_of_a_batch_takes_no_other_with_it(codec: int) -> None:
    records = (record(b"a"), record(b"bad", b"job-1", BAD_NAME, offset=1), record(b"c", offset=2))
    found = Read(Batch(records, codec=codec).bytes())
    assert [offset for offset, _, _ in shown(found)] == [0, 1, 2]
    assert shown(found)[1][1:] == (b"bad", "offset 1: record 1: the name of header 0 is not UTF-8")
    bad = record_of(found.records[1])
    with pytest.raises(PoisonError, match="not UTF-8") as raised:
        decode(REQUEST, bad.value)
    letter = dead_letter(bad, raised.value, "intake", 7)
    assert (letter.id, letter.reason, letter.record_key) == ("t.requests:3:1", "unreadable", "job-1")
    assert letter.value_base64 == "YmFk"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (Batch(crc_off=1).bytes(), "wrong checksum"),
        (Batch(codec=5).bytes(), "codec 5 is unknown"),
        (Batch(codec=7).bytes(), "codec 7 is unknown"),
        *((Batch(codec=codec, packed=b"junk, not packed").bytes(), CODECS[codec]) for codec in (1, 2, 3, 4)),
        (Batch(codec=SNAPPY, packed=b"").bytes(), "truncated within a varint"),
        (Batch(codec=LZ4, packed=b"").bytes(), "lz4"),
        *((Batch(codec=c, packed=compress(c, record() * 50)[:-5]).bytes(), CODECS[c]) for c in (1, 2, 3, 4)),
        (Batch(codec=SNAPPY, packed=b"\x82SNAPPY\0" + b"\0\0\0\1" * 2 + struct.pack(">i", -9)).bytes(), "-9 bytes"),
        (Batch(codec=SNAPPY, packed=b"\x82SNAPPY\0" + b"\0\0\0\1" * 2 + b"\0\0").bytes(), "truncated"),
        (Batch(magic=3).bytes(), "format 3 is unknown"),
        (Batch(magic=-1).bytes(), "format 255"),
        (Batch((record()[:-2],)).bytes(), "record 0"),
        (Batch((b"\xff" * 20,)).bytes(), "record 0 of 1: a varint longer than 10 bytes"),
        (Batch((record(offset=7),)).bytes(), "past the end of its batch"),
        (Batch(count=-1).bytes(), "bytes after its -1 records"),
        (Batch(count=0).bytes(), "bytes after its 0 records"),
        (Batch(delta=-9).bytes(), "-8 offsets"),
        (Batch((record(headers=((b"", None),) * (HEADERS_MAX + 1)),)).bytes(), "1001 headers"),
        (message(b"v")[:-2] + b"??", "wrong checksum"),
        (message(b"junk", codec=GZIP), "gzip"),
        (message(None, codec=GZIP), "without a value"),
        (message(compress(GZIP, TWICE_PACKED), codec=GZIP), "in a compressed one"),
        (message(compress(GZIP, message(b"x")[:-1]), codec=GZIP), "a message of"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)  # fmt: skip
def test_a_batch_that_cannot_be_read_is_stepped_over_alone(data: bytes, why: str) -> None:
    assert_stepped_over(data, why)


def test_offsets_of_a_batch_that_cannot_be_unpacked_are_named_as_a_range() -> None:
    assert_stepped_over(Batch(codec=6, delta=499).bytes(), "codec 6", honest_at=500)


@pytest.mark.parametrize("offset", [0, 3])
def test_a_reader_that_begins_within_such_a_batch_makes_the_same_dead_letter(offset: int) -> None:
    assert [at for at, _, _ in shown(Read(Batch(codec=6, delta=4).bytes(), offset))] == [4]


def test_a_damaged_header_takes_no_offset_of_the_next_batch() -> None:
    assert_stepped_over(Batch(crc_off=1, delta=5_000_000).bytes(), "checksum", honest_at=3)


def test_a_batch_that_is_cut_off_is_stepped_over_where_nothing_stands_before_it() -> None:
    found = Read(Batch((record(b"a"), record(b"b", offset=1))).bytes()[:-1])
    assert [(offset, why.split(":")[0]) for offset, _, why in shown(found)] == [(1, "offsets 0 to 1")]


def test_a_batch_damaged_on_its_way_is_read_when_it_is_fetched_again() -> None:
    damaged, whole = Batch(crc_off=1).bytes(), Batch().bytes()

    class Again(Read):
        def _from(self, data: bytes, offset: int) -> bytes:
            return super()._from(damaged if self.rounds == 1 else whole, offset)

    assert shown(Again(whole)) == [(0, b"v", "")]


def test_aborted_transactions_and_markers_of_strangers_are_passed_over() -> None:
    log = (
        Batch((record(b"aborted"),), flags=TRANSACTIONAL, producer=7).bytes()
        + Batch((record(b"plain"),), base=1, producer=7).bytes()
        + Batch((record(b"other"),), base=2, flags=TRANSACTIONAL, producer=8).bytes()
        + Batch((ABORT,), base=3, flags=TRANSACTIONAL | CONTROL, producer=7).bytes()
        + Batch((record(b"after"),), base=4, flags=TRANSACTIONAL, producer=7).bytes()
        + Batch((b"no marker at all",), base=5, flags=CONTROL).bytes()
        + Batch((), base=6, flags=CONTROL, delta=0).bytes()
    )
    found = Read(log, aborted=[(7, 0)])
    assert [(offset, value) for offset, value, _ in shown(found)] == [(1, b"plain"), (2, b"other"), (4, b"after")]
    assert found.offset == 7


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4])
def test_message_sets_of_old_producers_are_read(magic: int, codec: int) -> None:
    base = 0 if magic else 10
    inner = message(b"x", offset=base, magic=magic) + message(None, None, offset=base + 1, magic=magic)
    data = inner if not codec else message(compress(codec, inner), offset=base + 1, magic=magic, codec=codec)
    found = Read(data, offset=base)
    assert [(offset, value) for offset, value, _ in shown(found)] == [(base, b"x"), (base + 1, None)]
    assert [record_of(each).timestamp_ms for each in found.records] == [77 if magic else -1] * 2


def test_a_fetch_from_within_a_batch_gives_what_follows() -> None:
    records = tuple(record(b"%d" % n, offset=n, headers=BAD_NAME if n == 1 else ()) for n in range(4))
    assert [offset for offset, _, _ in shown(Read(Batch(records).bytes(), offset=2))] == [2, 3]


def test_records_below_the_position_do_not_stop_the_reader() -> None:
    class Stuck(Read):
        def _from(self, data: bytes, offset: int) -> bytes:
            return data if offset < 9 else b""

    assert [offset for offset, _, _ in shown(Stuck(Batch().bytes(), offset=8))] == [8]


records_st = st.lists(
    st.builds(
        record,
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=10),
        st.lists(st.tuples(st.binary(max_size=4), st.none() | st.binary(max_size=4)), max_size=3).map(tuple),
        st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5),
        st.integers(-(2**63), 2**63 - 1),
    )
    | st.binary(max_size=30),
    max_size=5,
).map(tuple)
batches_st = st.builds(
    Batch,
    records_st,
    st.integers(0, 20) | st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 7),
    st.sampled_from([0, 8, CONTROL, TRANSACTIONAL, CONTROL | TRANSACTIONAL, -(2**15)]),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([2, 2, 2, 2, 1, 0, 3, -128]),
    st.integers(-1, 2),
    st.none() | st.binary(max_size=60),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 0, 0, 1]),
)
message_st = st.builds(
    message, st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=5), st.integers(0, 20),
    st.integers(0, 1), st.integers(0, 7),
)  # fmt: skip


@st.composite
def fetched(draw: st.DrawFn) -> bytes:
    """Batches and messages, some with bytes changed, the last perhaps cut off."""
    data = bytearray(
        b"".join(draw(st.lists(batches_st.map(Batch.bytes) | message_st | st.binary(max_size=80), max_size=5)))
    )
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)):
        if at < len(data):
            data[at] = byte
    return bytes(data[: len(data) - draw(st.integers(0, 20))])


class Once(Read):
    """Bytes of a broker whose whole log is damaged: they do not depend on the offset that is fetched."""

    def _from(self, data: bytes, offset: int) -> bytes:
        del offset
        return data if self.rounds < 8 else b""


@pytest.mark.parametrize("base", [2**63 - 3, 2**63 - 2, 2**63 - 1])
@pytest.mark.parametrize("codec", [NONE, GZIP])
@pytest.mark.parametrize("crc_off", [0, 1])
@pytest.mark.parametrize("at", [0, 2**63 - 3])
def test_offsets_that_no_log_reaches_are_one_stand_in(base: int, codec: int, crc_off: int, at: int) -> None:
    records = (record(b"a"), record(b"bad", b"job-1", BAD_NAME, offset=1), record(b"c", offset=2))
    read = Once(Batch(records, base=base, codec=codec, crc_off=crc_off).bytes(), at)
    assert read.records
    for each in read.records:
        raw = record_of(each)
        with pytest.raises(PoisonError) as raised:
            decode(REQUEST, raw.value)
        letter = dead_letter(raw, raised.value, "intake", 7)
        assert letter.origin is not None
        assert letter.origin.offset == raw.offset
        assert decode(DEAD_LETTER, encode(letter)) == letter


@examples(1_000, 200)
@given(fetched(), st.integers(0, 10))
def test_no_bytes_stop_a_reader_and_each_makes_a_dead_letter_that_fits(data: bytes, offset: int) -> None:
    read = Once(data, offset, aborted=[(1, 0), (2, 5)])
    offsets = [offset for offset, _, _ in shown(read)]
    assert offsets == sorted(set(offsets))
    assert all(at >= offset for at in offsets)
    for each in read.records:
        raw = record_of(each)
        try:
            decode(REQUEST, raw.value)
        except PoisonError as error:
            letter = dead_letter(raw, error, "intake", 7)
            assert len(encode(letter)) < RECORD_BYTES_MAX
            assert decode(DEAD_LETTER, encode(letter)) == letter


@examples(300, 80)
@given(st.lists(st.tuples(st.none() | st.binary(), st.none() | st.binary()), min_size=1, max_size=8), st.integers(0, 4))
def test_what_was_written_is_what_is_read(pairs: list[tuple[bytes | None, bytes | None]], codec: int) -> None:
    records = tuple(record(value, key, offset=n) for n, (key, value) in enumerate(pairs))
    found = Read(Batch(records, base=40, codec=codec).bytes(), offset=40).records
    assert [(each.key, each.value) for each in found] == pairs  # type: ignore[attr-defined]
    assert not any(isinstance(each.value, Unreadable) for each in found)  # type: ignore[attr-defined]

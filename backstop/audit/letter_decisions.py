"""Carries out decisions about dead letters: for `backstop dlq` and for the API.

A decision is another record on `dead-letters`, with its author and reason. Existing records are never changed.
"""

from collections.abc import Sequence
from typing import Final

from backstop.audit.dead_letters import DeadLetterEntry, Republish, resolved
from backstop.runtime.authority import key_id_now
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.kafka.raw_records import RawOutput, send_raw
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import encode
from schemas.dead_letters import Resolution

CLIENT_ID: Final = "backstop-dlq"


async def put_back(
    settings: RuntimeSettings, items: Sequence[Republish], by: str, why: str, now_ms: int, component: str
) -> None:
    """Put the records back first, then record the decisions. After a crash in between a repeat puts the records back a
    second time, which the folds recognise as duplicates.

    :raises BrokerUnavailableError: some records are not acknowledged.
    """
    await send_raw(settings, [RawOutput(each.topic, each.key, each.value, each.headers) for each in items], CLIENT_ID)
    await decide(settings, [each.letter for each in items], "retried", by, why, now_ms, component)


async def decide(
    settings: RuntimeSettings, letters: Sequence[DeadLetterEntry], resolution: Resolution, by: str, why: str,
    now_ms: int, component: str,
) -> None:  # fmt: skip
    """:raises BrokerUnavailableError: some records are not acknowledged."""
    messages = [resolved(letter, resolution, by, why, now_ms, key_id_now()) for letter in letters]
    topic = f"{settings.topic_prefix}dead-letters"
    await send_raw(
        settings,
        [RawOutput(topic, each.key.encode(), encode(each), tuple(event_headers(each, component))) for each in messages],
        CLIENT_ID,
    )

"""A stream that is resumed by the helper of the SDKs: it reads the stream from its start and drops what was seen."""

from receiver.responses_api.streamed import BEYOND_ALL
from tests.unit.receiver.test_streams import Stage, numbers, on_stage, rest_of


def test_the_sdks_helper_hears_of_the_end_where_no_event_is_held() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.ends(response_id)
        await rest_of(stream)
        async with s.client.responses.stream(response_id=response_id, starting_after=57) as resumed:
            events = [event async for event in resumed]
        assert [event.type for event in events] == ["response.completed"]
        over = await s.client.responses.retrieve(response_id, stream=True, starting_after=BEYOND_ALL)
        assert numbers(await rest_of(over)) == []

    on_stage(story)

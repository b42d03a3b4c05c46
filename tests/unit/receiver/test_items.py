"""The input items of a response, whatever its submission holds."""

from typing import Any

import orjson
import pytest

from receiver.responses_api.items import PageOf, page_of


def page(given: Any) -> Any:
    submission = orjson.dumps({"request": {"model": "m", "input": given}})
    return orjson.loads(page_of(submission, "resp_1", PageOf()))


@pytest.mark.parametrize("given", [5, 1.5, True, None, {"role": "user"}, [], ["text", 7]])
def test_an_input_that_has_no_items_is_an_empty_page(given: Any) -> None:
    assert page(given) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_text_is_one_item() -> None:
    assert len(page("Hi.")["data"]) == 1

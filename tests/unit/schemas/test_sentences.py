"""Validation errors for users, without the library's wording."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from schemas.requests import REQUEST, Submit
from schemas.sentences import sentence


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int
    name: str = "x"

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError("name must be short")
        return name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 1, "name": "long"}, "name must be short"),
        ({"size": "much"}, "must be a valid integer, unable to parse string as an integer"),
        ({"size": 1, "colour": "red"}, "is not known here; leave it out"),
        ({}, "is missing"),
        ({"size": 1, "name": 2}, "must be a valid string"),
    ],
)
def test_a_sentence_names_the_error_and_not_the_library(given: object, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Thing.model_validate(given)
    (problem,) = raised.value.errors()
    assert sentence(problem) == said


@pytest.mark.parametrize(
    ("fallback", "where", "said"),
    [
        (5, ("fallback",), "must be an object"),
        ({"to": 5}, ("fallback", "to"), "must be a list"),
        ({"to": [7]}, ("fallback", "to", 0), "must be an object"),
        ({"to": [{}]}, ("fallback", "to", 0, "model"), "is missing"),
    ],
)
def test_an_error_of_a_field_that_may_be_left_out_names_the_field_and_no_class(
    fallback: object, where: tuple[str | int, ...], said: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        Submit.model_validate({"request": {"model": "m"}, "fallback": fallback})
    (problem,) = raised.value.errors()
    assert (problem["loc"], sentence(problem)) == (where, said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "submit_later"}, "its `type` is 'submit_later' and must be one of 'submit', 'cancel'"),
        ({"type": "My card is 4111 1111"}, "its `type` must be one of 'submit', 'cancel'"),
        ({}, "its `type` is missing, or no text"),
    ],
)
def test_a_kind_that_is_not_known_is_told_with_those_that_are(given: object, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        REQUEST.validate_python(given)
    (problem,) = raised.value.errors()
    assert sentence(problem) == said


def test_a_kind_that_is_not_known_is_not_told_as_missing_where_the_context_was_left_out() -> None:
    with pytest.raises(ValidationError) as raised:
        REQUEST.validate_python({"type": "submit_later"})
    (problem,) = raised.value.errors(include_context=False)
    assert sentence(problem) == "its `type` must be one that is known here"

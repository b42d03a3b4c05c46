"""Validation errors for users, without the library's wording."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

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

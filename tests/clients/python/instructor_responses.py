"""instructor over the Responses API: values of a type, by a tool that must be called."""

from typing import Any

import instructor
from features import MODEL, NO_MODEL, SAY, error_of, run, twice
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    days: int


def structured(model: str = MODEL) -> Any:
    client = instructor.from_provider(f"openai/{model}", mode=instructor.Mode.RESPONSES_TOOLS)
    return client.create(messages=[{"role": "user", "content": SAY}], response_model=Place).model_dump()


run(
    structured=structured,
    error=lambda: error_of(lambda: structured(NO_MODEL)),
    cut=lambda: twice(structured),
    lost=lambda: twice(structured),
)

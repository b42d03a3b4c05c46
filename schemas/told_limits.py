"""What a provider tells of its limits."""

from pydantic import Field

from schemas.base import Frozen, Int64


class ToldLimits(Frozen):
    """What the answer to a create told of the limits of its account and model. Absent: it told nothing of that."""

    requests_per_min: Int64 | None = Field(default=None, ge=1)
    requests_left: Int64 | None = Field(default=None, ge=0)
    tokens_per_min: Int64 | None = Field(default=None, ge=1)
    tokens_left: Int64 | None = Field(default=None, ge=0)

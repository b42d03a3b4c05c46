"""A large output is named by an address in its result, where the operator says where the reads are."""

import pytest

from schemas.base import BlobBody, Body, InlineBody
from schemas.codec import decode, encode
from schemas.results import RESULT, JobResult
from tests.support.builders import POLICY, T0, accepted, settled, submitted
from tests.support.given_when_then import given

LARGE = BlobBody(sha256="a" * 64, size_bytes=20_000_000)
SMALL = InlineBody(value={"id": "resp_1"})
URL = "https://backstop.example.com/"


@pytest.mark.parametrize(
    ("tenant", "job_id", "public_url", "body", "expected"),
    [
        ("acme", "acme:order-1", URL, LARGE, "https://backstop.example.com/v1/jobs/order-1/output"),
        ("default", "order-1", URL, LARGE, "https://backstop.example.com/v1/jobs/order-1/output"),
        ("acme", "acme:order-1", URL, SMALL, None),
        ("acme", "acme:order-1", None, LARGE, None),
    ],
)
def test_the_result_says_where_a_large_output_is_read(
    tenant: str, job_id: str, public_url: str | None, body: Body, expected: str | None
) -> None:
    policy = POLICY.model_copy(update={"public_url": public_url})
    taken = submitted(tenant=tenant, job_id=job_id, policy=policy)
    seen = given(taken, accepted(T0 + 1, job_id=job_id, tenant=tenant)).when(
        settled(T0 + 2, job_id=job_id, response=body)
    )
    (result,) = seen.step.outputs
    assert isinstance(result, JobResult)
    assert result.response_url == expected
    assert decode(RESULT, encode(result)) == result
    assert (b"response_url" in encode(result)) is (expected is not None)

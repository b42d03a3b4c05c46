"""What stays of an erased job's result."""

from schemas.base import InlineBody
from schemas.codec import encode
from schemas.erasures import without_content
from schemas.fallbacks import FallbackBrief
from schemas.results import JobResult, Reason, Timings

SECRET = "what only the caller and the model may know"


def test_no_text_of_caller_or_provider_stays_and_the_course_of_the_job_does() -> None:
    took = FallbackBrief(model="small", instead_of="large", from_attempt=2, why="refused", message=SECRET)
    result = JobResult(
        id="r", at_ms=1, job_id="j", tenant="default", outcome="failed", response=InlineBody(value={"text": SECRET}),
        reason=Reason(code="server_error", message=SECRET, http_status=500), session_id=SECRET, tags=(SECRET,),
        response_url=SECRET, fallbacks=(took,), timings=Timings(submitted_at_ms=1, finished_at_ms=1),
    )  # fmt: skip
    left = without_content(result, 2)
    assert SECRET not in encode(left).decode()
    assert left.fallbacks == (took.model_copy(update={"message": ""}),)
    assert (left.reason, left.erased_at_ms) == (Reason(code="server_error", http_status=500), 2)
    assert without_content(result.model_copy(update={"fallbacks": None}), 2).fallbacks is None

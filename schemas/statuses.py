"""The closed sets of statuses and outcomes of jobs, attempts and responses. Each set is declared here, once.

A new member must be handled in many places. Python matches each set to its end (`assert_never`), so mypy reports every
place that lacks the member. SQL is generated from these sets. `tests/unit/test_closed_sets.py` compares the places that
neither covers (the web page, the simulator, the version of the tables). `tests/unit/test_added_members.py` adds a
member to each set and holds the list of places that must report it.
"""

from typing import Final, Literal, assert_never, get_args

JobOutcome = Literal["completed", "failed", "incomplete", "cancelled", "expired", "rejected"]
"""The terminal states of a job."""

OpenJobStatus = Literal["waiting", "submitting", "running", "unknown", "backing_off", "finishing"]
"""`waiting`: for its turn under the limits. `unknown`: a create was sent, and its outcome is not known. `finishing`:
the job fold has ended the job, and the read model has not read its record on `results` yet."""

JobStatus = Literal[OpenJobStatus, JobOutcome]

OpenResponseStatus = Literal["queued", "in_progress"]
EndResponseStatus = Literal["completed", "failed", "incomplete", "cancelled"]
"""The terminal statuses of the provider's response object."""

ResponseStatus = Literal[OpenResponseStatus, EndResponseStatus]

WaitsFor = Literal[
    "log", "turn", "acceptance", "webhook", "poll", "adoption", "retry", "lane", "operator", "deadline", "result",
    "worker", "resume",
]  # fmt: skip
"""What an open job waits for:

- `log`: its facts have not been read from the log yet;
- `turn`: its turn under the limits, or the time before which it must not begin;
- `acceptance`: the answer to its create;
- `webhook`: a webhook, or the next poll, that tells of the end of its response;
- `poll`: a poll that confirms the end that a webhook told of;
- `adoption`: a sign of the response of a create whose outcome is unknown;
- `retry`: the time of its next attempt;
- `lane`: an open lane, as the time of its next attempt has come;
- `operator`: the account at the provider to be mended;
- `deadline`: nothing but a late response, as it gets no further attempt;
- `result`: its record on `results`;
- `worker`: a worker for its partition;
- `resume`: the end of a pause of its creates, by an operator or a budget.
"""

GivenUpStatus = Literal["missing", "stuck"]
"""`missing`: polls were answered with 404 for too long. `stuck`: the response did not change for too long. The response
may still end in both cases."""

SettledStatus = Literal[EndResponseStatus, GivenUpStatus]
"""How an attempt ends that the provider accepted."""

AttemptOutcome = Literal[SettledStatus, "running", "unknown"]
"""The state of an attempt when its job ended. `running`: its response is being cancelled."""

SeenOutcome = Literal["running", EndResponseStatus, "odd"]
"""The status that a response object shows. `odd`: a status that this release does not know."""

ObservedOutcome = Literal[SeenOutcome, "missing"]
"""The outcome of one poll. `missing` is a 404."""

JOB_OUTCOMES: Final[tuple[JobOutcome, ...]] = get_args(JobOutcome)
OPEN_JOB_STATUSES: Final[tuple[OpenJobStatus, ...]] = get_args(OpenJobStatus)
JOB_STATUSES: Final[tuple[JobStatus, ...]] = get_args(JobStatus)
WAITS_FOR: Final[tuple[WaitsFor, ...]] = get_args(WaitsFor)
OPEN_RESPONSE_STATUSES: Final[tuple[OpenResponseStatus, ...]] = get_args(OpenResponseStatus)
END_RESPONSE_STATUSES: Final[tuple[EndResponseStatus, ...]] = get_args(EndResponseStatus)
RESPONSE_STATUSES: Final[tuple[ResponseStatus, ...]] = get_args(ResponseStatus)
GIVEN_UP_STATUSES: Final[tuple[GivenUpStatus, ...]] = get_args(GivenUpStatus)


def has_answer(outcome: JobOutcome) -> bool:
    """Whether the job ended with an output of the model. A truncated output (`incomplete`) counts."""
    match outcome:
        case "completed" | "incomplete":
            return True
        case "failed" | "cancelled" | "expired" | "rejected":
            return False
        case _:
            assert_never(outcome)


def response_status(status: JobStatus) -> ResponseStatus:
    """A job's status as one of the statuses of the Responses API, which has fewer."""
    match status:
        case "waiting" | "submitting" | "unknown" | "backing_off":
            return "queued"  # No attempt is known to run.
        case "running" | "finishing":
            return "in_progress"
        case _:
            return end_response_status(status)


def end_response_status(outcome: JobOutcome) -> EndResponseStatus:
    """As `response_status`, for a job that has ended."""
    match outcome:
        case "completed" | "failed" | "incomplete" | "cancelled":
            return outcome
        case "expired" | "rejected":
            return "failed"
        case _:
            assert_never(outcome)


def due_in_fold(status: OpenJobStatus) -> bool:
    """Whether the job fold still has a next action for the job, so that the sweep watches its due time.

    A `finishing` job only waits for its record on `results`. A new status counts as due unless it is excluded here.
    """
    return status != "finishing"

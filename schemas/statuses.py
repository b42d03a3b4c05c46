"""The closed sets of how jobs, attempts and responses stand and end. Each is declared here once.

A new member must be decided in many places. Python code matches a set to its end (`assert_never`), so mypy reports each place that lacks
the member; SQL is written from these sets; a test compares what neither of them sees (the page, the tables' version). The test
`tests/unit/test_closed_sets.py` adds a member to each set and holds the list of places that must report it.
"""

from typing import Final, Literal, assert_never, get_args

JobOutcome = Literal["completed", "failed", "incomplete", "cancelled", "expired", "rejected"]
"""How a job ends: its terminal states."""

OpenJobStatus = Literal["submitting", "running", "unknown", "backing_off", "finishing"]
"""`unknown`: a create was sent, and its outcome is not known. `finishing`: the job fold has ended the job, and the read model has not
read its record on `results` yet."""

JobStatus = Literal[OpenJobStatus, JobOutcome]

OpenResponseStatus = Literal["queued", "in_progress"]
EndResponseStatus = Literal["completed", "failed", "incomplete", "cancelled"]
"""The terminal statuses of the provider's response object."""

ResponseStatus = Literal[OpenResponseStatus, EndResponseStatus]

GivenUpStatus = Literal["missing", "stuck"]
"""`missing`: answered with 404 for too long. `stuck`: without any change for too long. Both may still turn up."""

SettledStatus = Literal[EndResponseStatus, GivenUpStatus]
"""How an attempt ends that the provider had accepted."""

AttemptOutcome = Literal[SettledStatus, "running", "unknown"]
"""Of an attempt, when its job ended. `running`: its response is being cancelled."""

SeenOutcome = Literal["running", EndResponseStatus, "odd"]
"""What a response object says. `odd`: a status that this release does not know."""

ObservedOutcome = Literal[SeenOutcome, "missing"]
"""What one poll saw. `missing` is a 404."""

JOB_OUTCOMES: Final[tuple[JobOutcome, ...]] = get_args(JobOutcome)
OPEN_JOB_STATUSES: Final[tuple[OpenJobStatus, ...]] = get_args(OpenJobStatus)
JOB_STATUSES: Final[tuple[JobStatus, ...]] = get_args(JobStatus)
OPEN_RESPONSE_STATUSES: Final[tuple[OpenResponseStatus, ...]] = get_args(OpenResponseStatus)
END_RESPONSE_STATUSES: Final[tuple[EndResponseStatus, ...]] = get_args(EndResponseStatus)
RESPONSE_STATUSES: Final[tuple[ResponseStatus, ...]] = get_args(ResponseStatus)
GIVEN_UP_STATUSES: Final[tuple[GivenUpStatus, ...]] = get_args(GivenUpStatus)


def has_answer(outcome: JobOutcome) -> bool:
    """Whether the job ended with an output of the model; a cut one (`incomplete`) is one, too."""
    match outcome:
        case "completed" | "incomplete":
            return True
        case "failed" | "cancelled" | "expired" | "rejected":
            return False
        case _:
            assert_never(outcome)


def response_status(status: JobStatus) -> ResponseStatus:
    """A job's status as a Responses API shows it, which knows fewer."""
    match status:
        case "submitting" | "unknown" | "backing_off":
            return "queued"  # No attempt is known to run.
        case "running" | "finishing":
            return "in_progress"
        case _:
            return end_response_status(status)


def end_response_status(outcome: JobOutcome) -> EndResponseStatus:
    """As `response_status`, of a job that has ended."""
    match outcome:
        case "completed" | "failed" | "incomplete" | "cancelled":
            return outcome
        case "expired" | "rejected":
            return "failed"
        case _:
            assert_never(outcome)


def due_in_fold(status: OpenJobStatus) -> bool:
    """Whether the job fold still has a next action for the job: so it is unless somebody says otherwise here, and the sweep watches it.
    A `finishing` job waits for its record on `results`.
    """
    return status != "finishing"

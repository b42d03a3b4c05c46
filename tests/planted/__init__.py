"""Bugs, each a patch, and the layer of tests that must notice it: proof that the checkers check.

Each patch begins with a sentence that says what it does. `python -m tests.planted [NAME ...]` plants one bug after the
other in a copy of the code and runs the layer there. A bug that survives is a hole in the tests; the exit code is 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug. `layer` is `torture` or a file of tests.

    `caught_by`: for `torture`, invariants of which one must be violated; for tests, words of the failure.
    """

    name: str
    layer: str
    caught_by: tuple[str, ...]
    failpoints: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    minutes: float = 0.8
    jobs: int = 300
    faults: Literal["calm", "demo", "rough", "torture"] = "demo"

    @property
    def patch(self) -> Path:
        return HERE / f"{self.name}.patch"

    @property
    def says(self) -> str:
        return self.patch.read_text().splitlines()[0]


CHEAP = (
    Planted("sdk_retries_on", "tests/unit/streams/openai/test_client.py", ("failed",)),
    Planted("transports_word_is_taken", "tests/unit/streams/openai/test_client.py", ("failed",)),
    Planted("answered_before_the_log_has_it", "tests/unit/receiver/test_webhooks.py", ("failed",)),
    Planted("intake_does_not_wait", "tests/unit/streams/agents/test_intake.py", ("failed",)),
    Planted("empty_secret_allowed", "tests/unit/receiver/test_signature.py", ("failed",)),
    Planted("commit_of_another_generation_counts", "tests/unit/streams/workers/test_command_group.py", ("failed",)),
    Planted("latecomer_not_claimed", "tests/unit/streams/fold/test_latecomers.py", ("failed",)),
    Planted("extended_deadline_not_told", "tests/unit/streams/fold/test_job_changed.py", ("failed",)),
    Planted("webhook_waits_for_the_timers_poll", "tests/unit/streams/fold/test_webhook_while_polling.py", ("failed",)),
    Planted("first_clock_answer_believed", "tests/unit/backstop/runtime/test_broker_clock.py", ("failed",)),
    Planted("submitter_forgets_command_ids", "tests/unit/streams/workers/test_submitter.py", ("failed",)),
    Planted("one_partition_unseen", "tests/unit/streams/tables/test_fold_store.py", ("failed",)),
)
"""A few seconds each. `make test` plants one of them, `make test-long` all."""

LONG = (
    Planted("sdk_retries_on", "torture", ("I3",), large=("connections_cut",), faults="rough"),
    Planted("offset_committed_after_the_post", "torture", ("I3",),
            failpoints=("submitter.answered=kill", "submitter.reported=kill")),
    Planted("submitter_forgets_command_ids", "torture", ("I3",), failpoints=("job_fold.outputs.acked=kill",)),
    Planted("rows_before_outputs", "torture", ("I1", "I4"),
            failpoints=("job_fold.rows.written=kill", "response_fold.rows.written=kill")),
    Planted("commit_before_the_changelog", "tests/kafka/faust/test_commits.py", ("failed",)),
    Planted("exceptions_are_acknowledged", "tests/kafka/faust/test_commits.py", ("failed",)),
    Planted("publisher_without_tail", "torture", ("I2",), failpoints=("results.sent=kill",)),
    Planted("publisher_without_fence", "torture", ("I2",), failpoints=("results.begun=stop",),
            minutes=1.2),
    Planted("answered_before_the_log_has_it", "torture", ("I7",), failpoints=("receiver.webhook.acked=kill",)),
    Planted("read_model_offsets_apart", "torture", ("I6",), failpoints=("projection.in_transaction=kill",)),
    Planted("timers_lost_on_rebalance", "torture", ("I1", "I5"), large=("members_change",), faults="torture"),
    Planted("zombie_makes_good", "torture", ("I1", "I4"), large=("zombie",), minutes=1.2),
    Planted("store_passes_over_strangers_rows", "torture", ("I1", "I4"),
            failpoints=("job_fold.outputs.acked=stop", "response_fold.outputs.acked=stop"), minutes=1.5),
    Planted("dead_producer_kept", "tests/kafka/test_lost_connections.py", ("failed",)),
    Planted("watchdog_off", "tests/kafka/faust/test_watchdog.py", ("failed",)),
)  # fmt: skip
"""Minutes each: `make planted`."""

"""For each alert: series that make it fire, when, and the labels it then has. Beside them a calm system."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Case:
    """`series`: name and values in promtool's notation, one value a minute. `at`: the time of the evaluation."""

    alert: str
    at: str
    series: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)


_JOBS = 'backstop_http_request_duration_seconds_count{method="POST",route="/v1/jobs",status_class="%s"}'
_READ = "backstop_readmodel_delay_seconds_%s"
_PLACE = {"group": "worker", "topic": "jobs", "partition": "2"}
_AT = 'group="worker",topic="jobs",partition="2"'

CASES = (
    Case("BackstopProcessAway", "2m", {'up{job="backstop-worker",instance="w1"}': "1 0x5"},
         {"job": "backstop-worker", "instance": "w1"}),
    Case("BackstopJobsOverdue", "3m", {"backstop_jobs_overdue": "0 2x5"}),
    Case("BackstopJobsWithoutNextAction", "4m", {"backstop_jobs_without_next_action": "0 1x5"}),
    Case("BackstopJobsDoNotFinish", "4m", {"backstop_results_held_too_long": "0 1x5"}),
    Case("BackstopResultRepeated", "5m", {"backstop_readmodel_repeated_results_total": "0 0 1x5"}),
    Case("BackstopRecordsLost", "5m", {'backstop_readmodel_records_gone_total{topic="jobs"}': "0 0 40x5"}),
    Case("BackstopSweepMissing", "5m", {"backstop_sweep_at_seconds": "0x10"}),
    Case("BackstopAuditDiffers", "3m", {'backstop_audit_differences{kind="table differs"}': "0 2x5"},
         {"kind": "table differs"}),
    Case("BackstopAuditMissing", "26h", {"backstop_audit_proved_at_seconds": "0x1600"}),
    Case("BackstopPartitionUnassigned", "2m", {f"backstop_partition_unassigned{{{_AT}}}": "0 1x5"}, _PLACE),
    Case("BackstopReaderStandsStill", "3m", {f"backstop_partition_still_seconds{{{_AT}}}": "0 30 90 150"}, _PLACE),
    Case("BackstopProcessInTrouble", "3m", {"backstop_processes_in_trouble": "0 1x5"}),
    Case("BackstopFoldStuck", "4m", {'backstop_oldest_batch_seconds{instance="w1"}': "0 61 120 180 240"},
         {"instance": "w1"}),
    Case("BackstopBrokerAway", "2m", {'backstop_broker_answers{instance="a"}': "1 0x5",
                                      'backstop_broker_answers{instance="b"}': "1 0x5"}),
    Case("BackstopReadModelBehind", "3m", {"backstop_readmodel_lag_seconds": "0 40 100 160"}),
    Case("BackstopDeadLetters", "5m", {'backstop_dead_letters_total{topic="requests",reason="unreadable"}': "0 0 1x5"},
         {"topic": "requests", "reason": "unreadable"}),
    Case("BackstopStoreDamaged", "5m", {'backstop_stores_damaged_total{instance="w1",log="jobs"}': "0 0 1x5"},
         {"instance": "w1"}),
    Case("BackstopZombieRepaired", "3m", {'backstop_rows_reasserted{instance="w1",log="jobs"}': "0 3x5"},
         {"instance": "w1"}),
    Case("BackstopProviderRefuses", "2m", {'backstop_lane_closed{model="m",why="held"}': "1x5"}, {"model": "m"}),
    Case("BackstopProviderUnavailable", "12m", {'backstop_lane_closed{model="m",why="broken"}': "1x15"},
         {"model": "m"}),
    Case("BackstopJobsFailing", "30m",
         {'backstop_jobs_ended_total{model="m",outcome="failed",code="server_error"}': "0+1x40",
          'backstop_jobs_ended_total{model="m",outcome="completed",code=""}': "0+3x40"}, {"model": "m"}),
    Case("BackstopWebhooksMissing", "60m",
         {'backstop_readmodel_finished_total{outcome="completed",found_by="poll"}': "0+1x80",
          'backstop_webhooks_received_total{type="response.completed",result="accepted"}': "7x80"}),
    Case("BackstopWebhooksRefused", "12m",
         {'backstop_webhooks_received_total{type="unverified",result="bad_signature"}': "0+2x20"},
         {"result": "bad_signature"}),
    Case("BackstopAnswersOdd", "5m", {'backstop_openai_alarms_total{kind="unusable_answer"}': "0 0 1x5"},
         {"kind": "unusable_answer"}),
    Case("BackstopAccountTrouble", "5m", {'backstop_openai_alarms_total{kind="credentials"}': "0 0 1x5"},
         {"kind": "credentials"}),
    Case("BackstopBlobStoreTrouble", "5m", {"backstop_intake_blobs_not_stored_total": "0 0 1x5"}),
    Case("BackstopPollsLate", "8m", {"backstop_poll_lag_seconds": "0 250x10"}),
    Case("BackstopPollsUncommitted", "3m", {"backstop_polls_uncommitted": "0 50001x5"}),
    Case("BackstopPollsRepeated", "25m", {"backstop_polls_taken_again_total": "0+2x30",
                                          'backstop_polls_total{result="running"}': "0+10x30"}),
    Case("BackstopCreatesPaused", "65m", {"backstop_pauses": "1x80"}),
    Case("BackstopCostUnpriced", "5m", {'backstop_cost_unpriced_attempts_total{model="m"}': "0 0 1x5"}, {"model": "m"}),
    Case("BackstopHedgesTooFew", "25m", {'backstop_hedges_stuck_ratio{model="m"}': "0 1.4x30"}, {"model": "m"}),
    Case("BackstopBudgetSpent", "3m", {'backstop_budget_used_ratio{tenant="t",per="day"}': "0.9 1.1x5"},
         {"tenant": "t", "per": "day"}),
    Case("BackstopOutgoingAbandoned", "5m", {'backstop_outgoing_dead_total{reason="gone"}': "0 0 1x5"},
         {"reason": "gone"}),
    Case("BackstopSubmissionsBurnFast", "60m", {_JOBS % "2xx": "0+97x70", _JOBS % "5xx": "0+3x70"}),
    Case("BackstopSubmissionsBurnSlow", "400m", {_JOBS % "2xx": "0+990x410", _JOBS % "5xx": "0+10x410"}),
    Case("BackstopDeadlinesBurnFast", "60m",
         {'backstop_jobs_ended_total{model="m",outcome="completed",code=""}': "0+80x70",
          'backstop_jobs_ended_total{model="m",outcome="expired",code="deadline"}': "0+18x70"}),
    Case("BackstopDeadlinesBurnSlow", "400m",
         {'backstop_jobs_ended_total{model="m",outcome="completed",code=""}': "0+90x410",
          'backstop_jobs_ended_total{model="m",outcome="expired",code="deadline"}': "0+10x410"}),
    Case("BackstopResultsBurnFast", "60m",
         {(_READ % "bucket") + '{topic="results",le="1.0"}': "0+80x70",
          (_READ % "count") + '{topic="results"}': "0+100x70"}),
    Case("BackstopResultsBurnSlow", "400m",
         {(_READ % "bucket") + '{topic="results",le="1.0"}': "0+90x410",
          (_READ % "count") + '{topic="results"}': "0+100x410"}),
)  # fmt: skip

CALM = {
    'up{job="backstop-worker",instance="w1"}': "1x400",
    "backstop_jobs_overdue": "0x400",
    "backstop_jobs_without_next_action": "0x400",
    "backstop_jobs_finishing_too_long": "0x400",
    "backstop_results_held_too_long": "0x400",
    "backstop_readmodel_repeated_results_total": "0x400",
    "backstop_sweep_at_seconds": "0+60x400",
    "backstop_audit_proved_at_seconds": "0+60x400",
    'backstop_audit_differences{kind="table differs"}': "0x400",
    f"backstop_partition_unassigned{{{_AT}}}": "0x400",
    f"backstop_partition_still_seconds{{{_AT}}}": "0 2 9 0x400",
    'backstop_oldest_batch_seconds{instance="w1"}': "0 1 0x400",
    'backstop_broker_answers{instance="a"}': "1x400",
    'backstop_broker_answers{instance="b"}': "0x400",
    "backstop_readmodel_lag_seconds": "0 1 0x400",
    'backstop_rows_reasserted{instance="w1",log="jobs"}': "0x400",
    'backstop_lane_closed{model="m",why="broken"}': "1x5 _x400",
    'backstop_jobs_ended_total{model="m",outcome="failed",code="server_error"}': "0+1x400",
    'backstop_jobs_ended_total{model="m",outcome="completed",code=""}': "0+99x400",
    'backstop_readmodel_finished_total{outcome="completed",found_by="poll"}': "0+5x400",
    'backstop_webhooks_received_total{type="response.completed",result="accepted"}': "0+95x400",
    "backstop_poll_lag_seconds": "2x400",
    "backstop_polls_uncommitted": "40x400",
    "backstop_polls_taken_again_total": "0 7x400",
    'backstop_polls_total{result="running"}': "0+10x400",
    "backstop_pauses": "1x30 0x400",
    'backstop_budget_used_ratio{tenant="t",per="day"}': "0.5x400",
    _JOBS % "2xx": "0+100000x400",
    _JOBS % "5xx": "0+1x400",
    (_READ % "bucket") + '{topic="results",le="1.0"}': "0+1000x400",
    (_READ % "count") + '{topic="results"}': "0+1001x400",
}
"""Figures of a system in which something small is always wrong: one `serve` restarts, a tenth of a percent fails."""

"""A submitter and a caller in a process of their own, without the folds: `python -m tests.kafka.worker_child`."""

import asyncio
import signal

from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process import failpoints
from backstop.runtime.process.clock import make_clock
from backstop.runtime.process.logs import configure
from streams.openai.provider import open_openai
from streams.policy.polls import Webhooks
from streams.provider import CallLimits
from streams.settings import StreamSettings
from streams.workers.access import ProviderAccess
from streams.workers.command_group import CommandGroup
from streams.workers.command_worker import WorkerParts
from streams.workers.lanes import Lanes
from streams.workers.limits import PollerLimits, SubmitterLimits
from streams.workers.metrics import WorkerMetrics
from streams.workers.poller import Poller
from streams.workers.rate import PollRate
from streams.workers.submitter import Submitter


async def work(settings: StreamSettings, stop: asyncio.Event) -> None:
    now_ms, publisher = make_clock(), KafkaPublisher(settings, "worker")
    reporting = Reporting(publisher, WorkerMetrics(), now_ms)
    provider = open_openai(settings, CallLimits(), reporting.metrics, now_ms)
    parts = WorkerParts(
        ProviderAccess(provider, Lanes(now_ms), PollRate(settings.poll_rate_max_per_s, now_ms)),
        reporting,
        Bodies(FolderBlobs(settings.blobs_path), settings.inline_bytes_max),
        Webhooks(settings.poll_policy()),
    )

    def group(topic: str, name: str) -> CommandGroup:
        timeout_ms = settings.group_session_timeout_ms
        return CommandGroup(settings, topic=topic, group=name, session_timeout_ms=timeout_ms)

    submitter = Submitter(group("submissions", "submitter"), parts, SubmitterLimits())
    poller = Poller(group("polls", "poller"), parts, PollerLimits())
    await publisher.start()
    try:
        await asyncio.gather(submitter.run(stop), poller.run(stop))
    finally:
        await publisher.stop()
        await provider.close()


async def main() -> None:
    settings = StreamSettings()
    configure("json", "info", "worker")
    failpoints.arm(settings.failpoints)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await work(settings, stop)


if __name__ == "__main__":
    asyncio.run(main())

"""A submitter and a caller in a process of their own, without the folds: `python -m tests.kafka.worker_child`."""

import asyncio
import signal

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.process import failpoints
from backstop.runtime.process.clock import make_clock
from backstop.runtime.process.logs import configure
from streams.openai.provider import OpenAIProvider
from streams.policy.polls import Webhooks
from streams.settings import StreamSettings
from streams.workers.command_group import CommandGroup
from streams.workers.lanes import Lanes
from streams.workers.metrics import WorkerMetrics
from streams.workers.poller import Poller
from streams.workers.rate import PollRate
from streams.workers.submitter import Submitter


async def work(settings: StreamSettings, stop: asyncio.Event) -> None:
    metrics, now_ms, polls = WorkerMetrics(), make_clock(), Webhooks(settings.poll_policy())
    lanes = Lanes(now_ms)
    blobs, publisher = FolderBlobs(settings.blobs_path), KafkaPublisher(settings, "worker")
    provider = OpenAIProvider.open(
        base_url=settings.openai_base_url, api_key=settings.openai_api_key, metrics=metrics, now_ms=now_ms
    )
    rate = PollRate(settings.poll_rate_max_per_s, now_ms, metrics.poll_rate_limit.set)

    def group(topic: str, name: str) -> CommandGroup:
        timeout_ms = settings.group_session_timeout_ms
        return CommandGroup(settings, topic=topic, group=name, session_timeout_ms=timeout_ms)

    submitter = Submitter(
        group=group("submissions", "submitter"), provider=provider, publisher=publisher, blobs=blobs, now_ms=now_ms,
        metrics=metrics, polls=polls, lanes=lanes, inline_bytes_max=settings.inline_bytes_max, edge_blocked=rate.object,
    )  # fmt: skip
    poller = Poller(
        group=group("polls", "poller"), provider=provider, publisher=publisher, blobs=blobs, now_ms=now_ms,
        metrics=metrics, polls=polls, lanes=lanes, rate=rate, inline_bytes_max=settings.inline_bytes_max,
    )  # fmt: skip
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

"""`backstop webhooks`: manages endpoints over the HTTP API, and reads the outcome of deliveries from the log."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, get_args

import aiohttp
import typer

from backstop.cli.api import Url, run_against
from backstop.cli.job_text import clock
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.settings import bootstrap_settings
from backstop.cli.times import point_in_time
from backstop.outgoing.endpoints import EndpointFollower
from backstop.outgoing.history import DeliveryLine, lines
from backstop.runtime.http import api_client as http
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.process.clock import make_clock, monotonic_s
from schemas.codec import PoisonError, decode
from schemas.deliveries import DELIVERY_RECORD, DeliveryMessage
from schemas.webhook_endpoints import EVENT_TYPES, EventType

PATH: Final = "/v1/webhook_endpoints"
COLUMNS: Final = ("id", "url", "events", "enabled", "disabled_because", "name")
LINE_COLUMNS: Final = (
    "at",
    "delivery_id",
    "endpoint_id",
    "response_id",
    "event",
    "state",
    "attempt",
    "status",
    "because",
    "next",
)
TEST_WITHIN_S: Final = 20.0
POLL_AGAIN_S: Final = 0.3
TOPIC: Final = "deliveries"

app = typer.Typer(
    help="Outgoing webhooks about ended responses: endpoints and deliveries.",
    no_args_is_help=True,
    add_completion=False,
)

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id: we_…")]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event", help=f"Only this event type; may be given several times. Default: all of {', '.join(EVENT_TYPES)}."
    ),
]


@app.command()
def add(
    endpoint_url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST/PATH; HOST must be public.")],
    event: Events = None,
    name: Annotated[str, typer.Option(help="A note on what the endpoint is for.")] = "",
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Register an endpoint; prints its id and its signing secret, which is not shown again."""
    body: dict[str, Any] = {"url": endpoint_url, "name": name} | ({"event_types": event} if event else {})

    async def run(session: aiohttp.ClientSession) -> int:
        made = await http.ask(session, "POST", PATH, json=body)
        _print_secret(made, output, quiet=quiet)
        return DONE

    run_against(url, run)


@app.command("list")
def list_endpoints(
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="For operators: endpoints of all tenants, read from the topic.")
    ] = False,
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """List the endpoints of this key's tenant, oldest first. An endpoint that answered 410 Gone is shown as
    disabled.
    """
    if all_tenants:
        emit(asyncio.run(_of_all_tenants()), output, ("tenant", *COLUMNS))
        return

    async def run(session: aiohttp.ClientSession) -> int:
        found = (await http.ask(session, "GET", PATH))["data"]
        if output is Form.TABLE:
            emit([{**one, "events": _short(one["event_types"])} for one in found], output, COLUMNS)
        else:
            emit(found, output, COLUMNS)
        return DONE

    run_against(url, run)


@app.command()
def remove(endpoint: EndpointId, url: Url = None, quiet: Quiet = False) -> None:
    """Remove an endpoint for good. Its pending deliveries are not sent."""

    async def run(session: aiohttp.ClientSession) -> int:
        await http.ask(session, "DELETE", f"{PATH}/{endpoint}")
        tell(f"{endpoint} is removed", quiet=quiet)
        return DONE

    run_against(url, run)


@app.command()
def enable(endpoint: EndpointId, url: Url = None, quiet: Quiet = False) -> None:
    """Enable an endpoint again, for example after a 410. `resend --since` sends the events of the time in between."""
    _switch(endpoint, url, enabled=True, quiet=quiet)


@app.command()
def disable(endpoint: EndpointId, url: Url = None, quiet: Quiet = False) -> None:
    """Stop sending to an endpoint until it is enabled."""
    _switch(endpoint, url, enabled=False, quiet=quiet)


@app.command()
def rotate(
    endpoint: EndpointId,
    keep_old: Annotated[
        bool, typer.Option("--keep-old/--drop-old", help="Sign each webhook with both secrets for 24 hours.")
    ] = True,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Give an endpoint a new signing secret, and print it."""

    async def run(session: aiohttp.ClientSession) -> int:
        body = {"keep_old_secret_active_for_24_hours": keep_old}
        _print_secret(
            await http.ask(session, "POST", f"{PATH}/{endpoint}/rotate_secret", json=body), output, quiet=quiet
        )
        return DONE

    run_against(url, run)


@app.command()
def resend(
    endpoint: EndpointId,
    job: Annotated[str | None, typer.Option("--job", help="The event of this job or response.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Events of all responses that ended since: 2h, 1d, 2026-05-01T12:30Z.")
    ] = None,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Send events again, delivered or not. Each keeps its `webhook-id`, so that the receiver can recognise a repeat."""
    if (job is None) is (since is None):
        fail("give either --job or --since")
    body = {"job_id": job} if since is None else {"since_ms": point_in_time(since, make_clock()())}

    async def run(session: aiohttp.ClientSession) -> int:
        asked = await http.ask(session, "POST", f"{PATH}/{endpoint}/resend", json=body)
        if output is not Form.TABLE:
            emit_one(asked)
        tell(f"accepted; see `backstop webhooks deliveries {endpoint}`", quiet=quiet)
        return DONE

    run_against(url, run)


@app.command("test")
def send_test(
    endpoint: EndpointId,
    event: Annotated[str, typer.Option("--event", help="The event type.")] = "response.completed",
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Send one event about a response that does not exist, and print its outcome. Exit 1: it was not delivered."""
    if event not in get_args(EventType):
        fail(f"--event is one of {', '.join(EVENT_TYPES)}")

    async def run(session: aiohttp.ClientSession) -> int:
        asked = await http.ask(session, "POST", f"{PATH}/{endpoint}/test", json={"event_type": event})
        line = await _outcome(str(asked["delivery_id"]))
        if line is None:
            fail(f"the test had no outcome within {TEST_WITHIN_S:g} s: is `backstop outgoing` running?", DIFFERS)
        if output is Form.TABLE:
            tell(f"{line.state}: HTTP {line.status}" if line.status else f"{line.state}: {line.because}", quiet=quiet)
        else:
            emit_one(asdict(line))
        return DONE if line.state == "delivered" else DIFFERS

    run_against(url, run)


@app.command()
def deliveries(
    endpoint: Annotated[str | None, typer.Argument(metavar="ENDPOINT", help="Only to this endpoint.")] = None,
    since: Annotated[str, typer.Option("--since", help="With a record since: 2h, 1d, 2026-05-01T12:30Z.")] = "1d",
    state: Annotated[str | None, typer.Option("--state", help="pending, delivered or dead.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only for this tenant.")] = None,
    output: Output = Form.TABLE,
) -> None:
    """List deliveries of all tenants with their outcomes, read from the topic. For operators."""
    since_ms = point_in_time(since, make_clock()())
    found = [
        line
        for line in asyncio.run(_lines(since_ms))
        if endpoint in (None, line.endpoint_id) and state in (None, line.state) and tenant in (None, line.tenant)
    ]
    if output is Form.TABLE:
        emit([_row(line) for line in found], output, LINE_COLUMNS)
    else:
        emit([asdict(line) for line in found], output, LINE_COLUMNS)


def _switch(endpoint: str, url: str | None, *, enabled: bool, quiet: bool) -> None:
    async def run(session: aiohttp.ClientSession) -> int:
        await http.ask(session, "POST", f"{PATH}/{endpoint}", json={"enabled": enabled})
        tell(f"{endpoint} is {'enabled' if enabled else 'disabled'}", quiet=quiet)
        return DONE

    run_against(url, run)


async def _of_all_tenants() -> list[dict[str, Any]]:
    follower = EndpointFollower(bootstrap_settings())
    try:
        await follower.catch_up()
    finally:
        await follower.stop()
    return [
        {
            "id": one.id, "tenant": one.saved.tenant, "url": one.saved.url, "name": one.saved.name,
            "events": _short(one.saved.event_types), "enabled": one.enabled,
            "disabled_because": one.disabled_because or None,
        }
        for one in follower.book.registered()
        if one.saved is not None
    ]  # fmt: skip


async def _lines(since_ms: int) -> list[DeliveryLine]:
    async with open_reader(bootstrap_settings()) as reader:
        partitions = reader.partitions(TOPIC)
        await reader.seek_time(partitions, since_ms)
        return _folded([record.value for record in await reader.read_all(partitions)])


async def _outcome(delivery_id: str) -> DeliveryLine | None:
    """The outcome of a test's delivery; None where there is none in time."""
    deadline_s = monotonic_s() + TEST_WITHIN_S
    async with open_reader(bootstrap_settings()) as reader:
        while monotonic_s() < deadline_s:
            line = await _last(reader, delivery_id)
            if line is not None and line.state != "pending":
                return line
            await asyncio.sleep(POLL_AGAIN_S)
    return None


async def _last(reader: TopicReader, delivery_id: str) -> DeliveryLine | None:
    partition = reader.partition_of(TOPIC, delivery_id.encode())
    await reader.seek_time([partition], make_clock()() - int(TEST_WITHIN_S * 2_000))
    records = await reader.read_all([partition], delivery_id.encode())
    return next(iter(_folded([record.value for record in records])), None)


def _folded(values: list[bytes | None]) -> list[DeliveryLine]:
    facts = []
    for value in values:
        try:
            fact = decode(DELIVERY_RECORD, value)
        except PoisonError:
            continue  # `backstop outgoing` makes it a dead letter: see `backstop dlq list`
        if isinstance(fact, DeliveryMessage):
            facts.append(fact)
    return lines(facts)


def _row(line: DeliveryLine) -> dict[str, Any]:
    row = asdict(line)
    pending = line.state == "pending" and line.next_at_ms is not None
    return {**row, "at": clock(line.at_ms, day=True), "event": _short([line.event_type]),
            "next": clock(line.next_at_ms, day=True) if pending else None}  # fmt: skip


def _short(event_types: Sequence[str]) -> str:
    return ",".join(name.removeprefix("response.") for name in event_types)


def _print_secret(made: dict[str, Any], output: Form, *, quiet: bool) -> None:
    if output is not Form.TABLE:
        emit_one(made)
        return
    say(f"{made['id']}\n{made['signing_secret']}")
    tell(
        "Store the secret now: it is not shown again. The SDKs' webhooks.unwrap verifies its signatures.",
        quiet=quiet,
    )

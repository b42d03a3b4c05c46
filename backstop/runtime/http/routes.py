"""A route is declared once: what the router registers, who may call it, how its query is read, and what `/openapi.json` says of
it are one object. Declarations stand beside the handlers.

    LIST = Route("GET", "/v1/jobs", name="listJobs", says="Jobs, newest first.", access="read", query=ListQuery,
                 answers=(Answer(200, "A page of jobs.", JobPage),), problems={400: ("bad_parameter",)})
    declare(app, LIST, reads.list_jobs)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, NotRequired, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from typing_extensions import TypedDict

from backstop.runtime.errors import BackstopError, InvariantError
from backstop.runtime.http.keys import Scope
from schemas.sentences import sentence

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Access = Scope | Literal["public", "signed"]
"""The scope that a key needs; `public` needs none, and `signed` proves itself by a signature over its body."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
Codes = Mapping[int, tuple[str, ...]]
"""The problems of a route: status, and the codes that come with it."""

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
DIGITS_MAX: Final = 16


class ServerSentEvent(TypedDict):
    """One event of a stream, where nothing more is said of it."""

    id: NotRequired[str]
    event: NotRequired[str]
    data: str


@dataclass(frozen=True, slots=True)
class Header:
    """`kind` is any type that pydantic knows; `says` is one sentence."""

    name: str
    says: str
    kind: Any = str


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes with a 2xx. `model` is any type that pydantic knows; None is an answer without a body. Of a stream it is the type
    of one event.
    """

    status: int
    says: str
    model: Any = None
    content_type: str = JSON
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path."""

    method: Method
    path: str
    _: KW_ONLY
    name: str
    """The operation's id, for clients that are generated."""
    says: str
    """One sentence; a second paragraph may follow."""
    access: Access
    answers: tuple[Answer, ...]
    ids: Mapping[str, Any] = field(default_factory=dict)
    """Types of the variables in the path; a string where nothing is said."""
    query: type["Query"] | None = None
    headers: tuple[Header, ...] = ()
    body: Any = None
    """The type of the JSON body; None takes none."""
    body_required: bool = True
    head: bool = False
    """Whether HEAD is taken, too."""
    problems: Codes = field(default_factory=dict)
    """Its own; what every route of its kind may answer besides is added where the document is made."""


DECLARED: Final[web.AppKey[dict[tuple[str, str], Route]]] = web.AppKey("declared", dict)


def declare(
    app: web.Application, route: Route, handler: Handler, *, expect_handler: ExpectHandler | None = None
) -> None:
    """Register `handler` for `route`.

    :raises ValueError: there is such a route already.
    """
    routes = declared(app)
    if (route.method, route.path) in routes:
        raise ValueError(f"{route.method} {route.path} is declared twice")
    for method in (route.method, "HEAD") if route.head else (route.method,):
        app.router.add_route(method, route.path, handler, expect_handler=expect_handler)
    routes[route.method, route.path] = route


def declared(app: web.Application) -> dict[tuple[str, str], Route]:
    """By method and path, in the order of their declaration."""
    if DECLARED not in app:
        app[DECLARED] = {}
    return app[DECLARED]


def require_declared(app: web.Application, files_below: str) -> None:
    """Files below one path need no declaration: they are no API.

    :raises InvariantError: something else is registered that no declaration describes.
    """
    known = declared(app)
    for route in app.router.routes():
        path = route.resource.canonical if route.resource is not None else str(route)
        method = "GET" if route.method == "HEAD" else route.method
        if (method, path) not in known and not f"{path}/".startswith(f"{files_below}/"):
            raise InvariantError(f"{route.method} {path} is registered and not declared")


def route_of(request: web.Request) -> Route | None:
    """The declaration of the route that takes `request`; None where none does, or one that was never declared."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    routes = declared(request.app)
    found = routes.get((request.method, resource.canonical))
    if found is None and request.method == "HEAD":
        found = routes.get(("GET", resource.canonical))
    return found


class BadParameterError(BackstopError):
    """The caller's: a parameter of the query is not as it is declared. `name` says which, `detail` what it must be."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class Query(BaseModel):
    """The parameters of a query. Each is read once; an unknown one is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=False)


Asked = TypeVar("Asked", bound=Query)


def query_of(request: web.Request, kind: type[Asked]) -> Asked:
    """:raises BadParameterError: a parameter is not as `kind` declares it."""
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "query"
        raise BadParameterError(name, sentence(first)) from None


def _whole(value: Any) -> Any:
    """Digits alone: neither signs, points and underscores, nor digits of other scripts."""
    if not isinstance(value, str):
        return value
    if not (value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX):
        raise ValueError("must be a whole number")
    return int(value)


WHOLE: Final = BeforeValidator(_whole)
"""Reads a whole number: `Annotated[int, Field(ge=1, le=200), WHOLE]`. It comes last: limits before it are in the document."""

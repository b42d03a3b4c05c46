"""A route is one declaration: the router, access control, query parsing and `/openapi.json` all read it. Declarations
stand beside the handlers.

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
"""The scope that a key needs. `public` needs no key; a `signed` request proves itself by a signature over its body."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
Codes = Mapping[int, tuple[str, ...]]
"""The problems of a route: the codes by status."""

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
DIGITS_MAX: Final = 16


class ServerSentEvent(TypedDict):
    """One event of a stream that declares no type of its own."""

    id: NotRequired[str]
    event: NotRequired[str]
    data: str


@dataclass(frozen=True, slots=True)
class Header:
    """`kind`: any type that pydantic knows. `says`: one sentence."""

    name: str
    says: str
    kind: Any = str


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. `model`: any type that pydantic knows, None for no body; of a stream, the type of one event."""

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
    """The operation id, for generated clients."""
    says: str
    """One sentence; a second paragraph may follow."""
    access: Access
    answers: tuple[Answer, ...]
    ids: Mapping[str, Any] = field(default_factory=dict)
    """Types of the path variables; a variable without one is a string."""
    query: type["Query"] | None = None
    headers: tuple[Header, ...] = ()
    body: Any = None
    """The type of the JSON body; None: no body is taken."""
    body_required: bool = True
    head: bool = False
    """Whether HEAD is accepted too."""
    problems: Codes = field(default_factory=dict)
    """The route's own problems; those of its kind are added when the document is made."""


DECLARED: Final[web.AppKey[dict[tuple[str, str], Route]]] = web.AppKey("declared", dict)


def declare(
    app: web.Application, route: Route, handler: Handler, *, expect_handler: ExpectHandler | None = None
) -> None:
    """Register `handler` for `route`.

    :raises ValueError: the route is already declared.
    """
    routes = declared(app)
    if (route.method, route.path) in routes:
        raise ValueError(f"{route.method} {route.path} is declared twice")
    for method in (route.method, "HEAD") if route.head else (route.method,):
        app.router.add_route(method, route.path, handler, expect_handler=expect_handler)
    routes[route.method, route.path] = route


def declared(app: web.Application) -> dict[tuple[str, str], Route]:
    """Routes by method and path, in the order of declaration."""
    if DECLARED not in app:
        app[DECLARED] = {}
    return app[DECLARED]


def require_declared(app: web.Application, files_below: str) -> None:
    """Check that every registered route is declared. Files below `files_below` need no declaration: they are not API.

    :raises InvariantError: a registered route has no declaration.
    """
    known = declared(app)
    for route in app.router.routes():
        path = route.resource.canonical if route.resource is not None else str(route)
        method = "GET" if route.method == "HEAD" else route.method
        if (method, path) not in known and not f"{path}/".startswith(f"{files_below}/"):
            raise InvariantError(f"{route.method} {path} is registered but not declared")


def route_of(request: web.Request) -> Route | None:
    """The declaration of the route that serves `request`; None if no route does, or it is not declared."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    routes = declared(request.app)
    found = routes.get((request.method, resource.canonical))
    if found is None and request.method == "HEAD":
        found = routes.get(("GET", resource.canonical))
    return found


class BadParameterError(BackstopError):
    """A query parameter violates its declaration; the caller must
    correct it. `name` says which, `detail` what it must be.
    """

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class Query(BaseModel):
    """The parameters of a query. Each is read once; unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=False)


Asked = TypeVar("Asked", bound=Query)


def query_of(request: web.Request, kind: type[Asked]) -> Asked:
    """:raises BadParameterError: a parameter violates its declaration in `kind`."""
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "query"
        raise BadParameterError(name, sentence(first)) from None


def _whole(value: Any) -> Any:
    """ASCII digits only: no signs, points or underscores, and no digits of other scripts."""
    if not isinstance(value, str):
        return value
    if not (value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX):
        raise ValueError("must be a whole number")
    return int(value)


WHOLE: Final = BeforeValidator(_whole)
"""Reads a whole number: `Annotated[int, Field(ge=1, le=200), WHOLE]`.
Put it last, or the limits are missing in the document.
"""

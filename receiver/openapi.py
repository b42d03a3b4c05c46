"""`/openapi.json`: all registered routes as OpenAPI 3.1, made from their declarations.

Answers of a single route are declared with it. Refusals that a whole kind of routes shares (authentication, bodies,
queries) are declared here.
"""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from backstop.runtime.http.routes import JSON, Answer, Codes, Header, Query, Route, declare, declared
from backstop.runtime.release import release
from receiver.openapi_form import plain
from receiver.problems import CONTENT_TYPE as PROBLEM_JSON
from receiver.problems import SECURITY_HEADERS, ProblemDocument
from receiver.responses_api.errors import ErrorDocument, speaks_openai, status_at_openai

REF: Final = "#/components/schemas/{model}"
SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

ABOUT: Final = """Background jobs of OpenAI's Responses API, each seen through to exactly one result.

Errors are problem documents (RFC 9457) with a `code` for programs; under `/v1/responses` and `/v1/models` they have
OpenAI's form. Malformed HTTP is answered 400 `bad_http`, an unknown path 404 `not_found`, an unsupported method 405
`method_not_allowed` with `Allow`. Later releases may add fields to answers: ignore unknown fields."""

_OF_ALL: Final[Codes] = {500: ("internal",)}
_WITH_KEY: Final[Codes] = {
    401: ("unauthenticated",),
    403: ("cross_site", "foreign_host", "forwarded_request", "scope_missing"),
    429: ("rate_exceeded",),
    503: ("busy", "storage_unavailable"),
}  # fmt: skip
_SIGNED: Final[Codes] = {401: ("unauthenticated",)}
_WITH_QUERY: Final[Codes] = {400: ("bad_parameter",)}
_WITH_BODY: Final[Codes] = {
    400: ("body_incomplete",),
    408: ("body_too_slow",),
    413: ("body_too_large",),
    415: ("encoded_body",),
    417: ("expectation_failed",),
}
_WITH_JSON: Final[Codes] = {
    400: ("bad_json",),
    415: ("not_json", "not_utf8"),
    422: ("bad_request",),
}
_HEADERS: Final[Mapping[int, tuple[Header, ...]]] = {
    401: (Header("WWW-Authenticate", "`Bearer`, where the route needs a key."),),
    429: (Header("Retry-After", "Seconds after which to send the request again.", int),),
    503: (Header("Retry-After", "Seconds after which to send the request again.", int),),
}

DOCUMENT = Route(
    "GET", "/openapi.json", name="openapi", says="This document.", access="public",
    answers=(Answer(200, "OpenAPI 3.1.", dict[str, Any]),),
)  # fmt: skip


def add_document(app: web.Application) -> None:
    """Serve `/openapi.json` on `app`. The document is made on the first request, of all routes declared by then."""
    made: list[bytes] = []

    async def show(_request: web.Request) -> web.Response:
        if not made:
            made.append(orjson.dumps(document(declared(app).values())))
        return web.Response(body=made[0], content_type=JSON, headers=SECURITY_HEADERS)

    declare(app, DOCUMENT, show)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI document of `routes`; their order does not matter."""
    ordered = sorted(routes, key=lambda route: (route.path, route.method))
    schemas = _Schemas(ordered)
    paths: dict[str, dict[str, Any]] = {}
    for route in ordered:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Backstop", "version": release(), "description": ABOUT},
        "jsonSchemaDialect": SCHEMA_DIALECT,
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": dict(sorted(schemas.refusals.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "bsk_<id>_<secret>"}},
        },
    }


class _Schemas:
    """The JSON schemas of all types that the routes name, with shared parts under `components`."""

    def __init__(self, routes: Iterable[Route]) -> None:
        kinds: dict[int, Any] = {}
        for kind in (ProblemDocument, ErrorDocument, *(kind for route in routes for kind in _kinds(route))):
            kinds.setdefault(id(kind), kind)
        # Keep the types alive: `id()` is unique only among living objects.
        self._kinds = list(kinds.values())
        made, shared = TypeAdapter.json_schemas(
            [(key, "validation", TypeAdapter(kind)) for key, kind in kinds.items()], ref_template=REF
        )
        self._by_id: dict[int, dict[str, Any]] = {key: plain(schema) for (key, _mode), schema in made.items()}
        self.refusals: dict[str, Any] = {}
        self.components: dict[str, Any] = plain(dict(sorted(shared.get("$defs", {}).items())))

    def of(self, kind: Any) -> dict[str, Any]:
        return self._by_id[id(kind)]

    def refusal(self, status: int, codes: tuple[str, ...], *, openai: bool) -> dict[str, Any]:
        """A reference to the component for this status and these codes, shared by all routes with the same ones."""
        name = f"{'openai' if openai else 'problem'}-{status}-{'-'.join(codes)}"
        if name not in self.refusals:
            code = {"type": "string", "enum": list(codes)}
            narrowed = {"type": "object", "properties": {"status": {"type": "integer", "enum": [status]}, "code": code}}
            if openai:
                content = {JSON: {"schema": self.of(ErrorDocument)}}
            else:
                content = {PROBLEM_JSON: {"schema": {"allOf": [self.of(ProblemDocument), narrowed]}}}
            says = f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}"
            self.refusals[name] = {"description": says, "content": content}
            if status in _HEADERS:
                self.refusals[name]["headers"] = {header.name: _described(header, self) for header in _HEADERS[status]}
        return {"$ref": f"#/components/responses/{name}"}

    def fields(self, kind: type[Query]) -> tuple[dict[str, Any], frozenset[str]]:
        """The schema of each query parameter by name, and the names of the required ones."""
        schema = TypeAdapter(kind).json_schema(ref_template=REF)
        self.components |= plain(schema.get("$defs", {}))
        return schema["properties"], frozenset(schema.get("required", ()))


def _kinds(route: Route) -> Iterable[Any]:
    """The types that a route names, except its query, whose fields become parameters."""
    yield from (route.body,) if route.body is not None else ()
    yield from route.ids.values()
    yield from (header.kind for header in route.headers)
    for answer in route.answers:
        yield from (answer.model,) if answer.model is not None else ()
        yield from (header.kind for header in answer.headers)
    yield from (header.kind for headers in _HEADERS.values() for header in headers)
    yield str


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    summary, _, more = route.says.partition("\n\n")
    operation: dict[str, Any] = {"operationId": route.name, "summary": summary}
    if more:
        operation["description"] = more
    parameters = list(_parameters(route, schemas))
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content = {JSON: {"schema": schemas.of(route.body)}}
        operation["requestBody"] = {"required": route.body_required, "content": content}
    operation["responses"] = dict(sorted(_responses(route, schemas).items()))
    operation["security"] = [] if route.access in {"public", "signed"} else [{"key": [route.access]}]
    return operation


def _parameters(route: Route, schemas: _Schemas) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": schemas.of(route.ids.get(name, str))}
    if route.query is not None:
        fields, required = schemas.fields(route.query)
        for name, schema in fields.items():
            kept = _given(schema)
            parameter = {"name": name, "in": "query", "required": name in required, "schema": kept}
            if "description" in schema:
                parameter["description"] = schema["description"]
            if kept.get("type") == "array":
                parameter |= {"style": "form", "explode": False}
            yield parameter
    for header in route.headers:
        yield {"name": header.name, "in": "header", "required": False, **_described(header, schemas)}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is present: never null; its description belongs to the parameter."""
    kept = {key: value for key, value in schema.items() if key not in {"title", "description", "anyOf"}}
    if kept.get("default", ...) in (None, []):
        del kept["default"]
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            kept |= choice
    return kept


def _described(header: Header, schemas: _Schemas) -> dict[str, Any]:
    return {"description": header.says, "schema": schemas.of(header.kind)}


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in route.answers:
        response: dict[str, Any] = {"description": answer.says}
        if answer.headers:
            response["headers"] = {header.name: _described(header, schemas) for header in answer.headers}
        if answer.model is not None:
            response["content"] = {answer.content_type: {"schema": schemas.of(answer.model)}}
        known = responses.setdefault(str(answer.status), response)
        if known is not response:  # the same status in another form
            known["description"] = f"{known['description']} {answer.says}"
            known["content"] |= response["content"]
    for status, codes in codes_of(route).items():
        responses[str(status)] = schemas.refusal(status, codes, openai=speaks_openai(route.path, {}))
    return responses


def codes_of(route: Route) -> dict[int, tuple[str, ...]]:
    """The codes of all problems that a route may answer with, by status."""
    parts = [_OF_ALL, route.problems]
    if route.access == "signed":
        parts.append(_SIGNED)
    elif route.access != "public":
        parts.append(_WITH_KEY)
    if route.query is not None:
        parts.append(_WITH_QUERY)
    if route.body is not None:
        parts.append(_WITH_BODY)
        if route.access != "signed":
            parts.append(_WITH_JSON)
    found: dict[int, set[str]] = {}
    for part in parts:
        for status, codes in part.items():
            shown = status_at_openai(status) if speaks_openai(route.path, {}) else status
            found.setdefault(shown, set()).update(codes)
    return {status: tuple(sorted(codes)) for status, codes in sorted(found.items())}

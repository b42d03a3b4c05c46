"""The document of the HTTP API is what `backstop serve` registers: nothing more, nothing less, and as committed."""

from pathlib import Path

import orjson
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from backstop.cli.openapi_page import app, page
from backstop.page.routes import ROOT
from backstop.runtime.errors import InvariantError
from backstop.runtime.http.routes import declared, require_declared

COMMITTED = Path(__file__).parents[4] / "docs" / "openapi.json"


def test_the_committed_document_is_made_from_the_declarations() -> None:
    assert COMMITTED.read_bytes() == page(), "run: python -m backstop.cli.openapi_page > docs/openapi.json"


def test_each_registered_route_is_in_the_document_and_each_of_the_document_is_registered() -> None:
    doors = app()
    registered = {
        (route.method, route.resource.canonical) for route in doors.router.routes() if route.resource is not None
    }
    registered = {
        (method, path) for method, path in registered if not path.startswith(ROOT)
    }  # the page's files are no API
    paths = orjson.loads(page())["paths"]
    described = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    heads = {("HEAD", route.path) for route in declared(doors).values() if route.head}
    assert registered == described | heads


def test_a_route_without_a_declaration_does_not_start() -> None:
    async def secret(_request: web.Request) -> web.Response:
        raise NotImplementedError

    doors = app()
    doors.router.add_post("/v1/secret", secret)
    with pytest.raises(InvariantError, match="POST /v1/secret is registered but not declared"):
        require_declared(doors, files_below=ROOT)


def test_the_document_is_one_of_openapi() -> None:
    validate(orjson.loads(page()))


def test_names_of_operations_are_unlike_each_other() -> None:
    names = [route.name for route in declared(app()).values()]
    assert sorted(set(names)) == sorted(names)

"""The document of the HTTP API is what `backstop serve` registers: nothing more, nothing less, and as committed."""

from pathlib import Path

from cli.openapi_page import app, page
from page.routes import ROOT
from runtime.routes import declared

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_committed_document_is_made_from_the_declarations() -> None:
    assert COMMITTED.read_bytes() == page(), "run: python -m cli.openapi_page > docs/openapi.json"


def test_each_registered_route_is_declared_and_each_declared_one_is_registered() -> None:
    doors = app()
    registered = {
        (route.method, route.resource.canonical) for route in doors.router.routes() if route.resource is not None
    }
    registered = {
        (method, path) for method, path in registered if not path.startswith(ROOT)
    }  # the page's files are no API
    heads = {("HEAD", route.path) for route in declared(doors).values() if route.head}
    assert registered == declared(doors).keys() | heads


def test_names_of_operations_are_unlike_each_other() -> None:
    names = [route.name for route in declared(app()).values()]
    assert sorted(set(names)) == sorted(names)

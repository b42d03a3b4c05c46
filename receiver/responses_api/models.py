"""`GET /v1/models`, which clients call to fill model pickers and to check the connection. The list is a setting, as the
receiver has no key of the provider.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from backstop.runtime.http.routes import JSON, Answer, Route, declare
from receiver.problems import SECURITY_HEADERS, Problem, Refusal
from receiver.responses_api.errors import MODELS_PATH


class ModelDocument(TypedDict):
    """OpenAI's Model object."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All models, in one page."""

    object: Literal["list"]
    data: list[ModelDocument]


LIST: Final = Route(
    "GET", MODELS_PATH, name="listModels", access="read",
    says="The models that the operator lists in `BACKSTOP_MODELS`.\n\n"
    "A create may name any model: the provider decides.",
    answers=(Answer(200, "All listed models.", ModelList),),
)  # fmt: skip
SHOW: Final = Route(
    "GET", MODELS_PATH + "/{model}", name="retrieveModel", access="read", says="One of the listed models.",
    answers=(Answer(200, "The model.", ModelDocument),), problems={404: ("model_not_found",)},
)  # fmt: skip


def add_models(app: web.Application, models: Sequence[str]) -> None:
    ingress = ModelIngress(models)
    declare(app, LIST, ingress.list_all)
    declare(app, SHOW, ingress.show)


class ModelIngress:
    def __init__(self, models: Sequence[str]) -> None:
        self._models: dict[str, ModelDocument] = {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "backstop"} for name in models
        }

    async def list_all(self, _request: web.Request) -> web.Response:
        return _json({"object": "list", "data": list(self._models.values())})

    async def show(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name not in self._models:
            sentence = f"BACKSTOP_MODELS does not list the model '{name[:120]}'; a create may still use it."
            raise Refusal(Problem(404, "model_not_found", sentence))
        return _json(self._models[name])


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type=JSON, headers=SECURITY_HEADERS)

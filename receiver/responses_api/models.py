"""`GET /v1/models`: what pickers of models and checks at a client's start ask for. Answered from a setting, as the doors hold no key of the provider's."""

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
    """All of them, in one page."""

    object: Literal["list"]
    data: list[ModelDocument]


LIST: Final = Route(
    "GET", MODELS_PATH, name="listModels", access="read",
    says="The models that the operator names (`BACKSTOP_MODELS`).\n\nA create may name any model: the provider decides.",
    answers=(Answer(200, "All of them.", ModelList),),
)  # fmt: skip
SHOW: Final = Route(
    "GET", MODELS_PATH + "/{model}", name="retrieveModel", access="read", says="One of these models.",
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
            sentence = f"The model '{name[:120]}' is not among those that BACKSTOP_MODELS names; a create may name it all the same."
            raise Refusal(Problem(404, "model_not_found", sentence))
        return _json(self._models[name])


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type=JSON, headers=SECURITY_HEADERS)

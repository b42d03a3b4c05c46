"""What is used of the OpenAI SDK: its client, its HTTP client and transport, and the form of its requests.

The SDK imports the models of its whole API, some 800 modules: half of the processor time of a worker's start. Answers
are read as JSON here, so no call uses one. While this module imports the SDK, the code of a package of models is put
off: it runs when a name is first asked of the package.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

MODELS: Final = "openai.types"


class _PutOff(ModuleType):
    """A package whose code has not run. Its modules can be imported, as it has a path."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]  # a plain module from here on
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _PuttingOff(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        module.__class__ = _PutOff


class _Packages(MetaPathFinder):
    """Finds the packages of models, and no other module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODELS and not fullname.startswith(f"{MODELS}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is not None:
            spec.loader = _PuttingOff(spec.loader)
        return spec


_packages = _Packages()
sys.meta_path.insert(0, _packages)
try:
    from openai import AsyncOpenAI, DefaultAioHttpClient
    from openai._models import FinalRequestOptions
    from openai._vendor.httpx_aiohttp import AiohttpTransport
    from openai._vendor.httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions
finally:
    sys.meta_path.remove(_packages)

__all__ = [
    "AiohttpResponseStream",
    "AiohttpTransport",
    "AsyncOpenAI",
    "DefaultAioHttpClient",
    "FinalRequestOptions",
    "map_aiohttp_exceptions",
]

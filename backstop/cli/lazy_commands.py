"""Commands whose modules are imported when they are called: the others of their group do not wait for the import."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

from backstop.runtime.process.garbage import imports_uncollected


def lazy_command(module: str, name: str) -> Any:
    """The command of a module that holds a typer `app`, or a function `name`."""
    with imports_uncollected():
        import_module("backstop.runtime.process.structlog_alone")  # Before anything that imports structlog.
        loaded = import_module(module)
    found = getattr(loaded, "app", None)
    if found is None:
        found = typer.Typer(add_completion=False)
        found.command(name)(getattr(loaded, name))
    command = get_command(found)
    command.name = name
    return command


class LazyCommands(TyperGroup):
    """A group with such commands behind those that it holds itself."""

    modules: ClassVar[Mapping[str, str]] = {}
    """By name of the command."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.modules]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = self.modules.get(cmd_name)
        return super().get_command(ctx, cmd_name) if module is None else lazy_command(module, cmd_name)

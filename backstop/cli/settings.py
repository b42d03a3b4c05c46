"""`backstop settings`: the settings of each process in this environment, with secrets hidden."""

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings

from backstop.cli.output import Form, Output, emit
from backstop.cli.settings_classes import SETTINGS_CLASSES
from backstop.cli.unknown_variables import warn_of_unknown
from backstop.dev.state import DevState, read_state, state_folder
from backstop.runtime.read_settings import read
from backstop.runtime.settings import RuntimeSettings

HIDDEN = "(set, hidden)"


def bootstrap_settings(state_dir: Path | None = None) -> RuntimeSettings:
    """The shared settings of a command that talks to Kafka. Without a broker in the environment: that of the running
    `backstop dev`, else the one that `backstop broker up` recorded.
    """
    from backstop.dev import broker  # noqa: PLC0415 - a quarter of a second that only Kafka's commands pay

    folder = state_folder(state_dir)
    overrides: dict[str, Any] = {}
    dev = read_state(folder)
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or os.environ.get("BACKSTOP_KAFKA_BOOTSTRAP_SERVERS")
    if not given:
        recorded = dev.bootstrap if dev else broker.bootstrap_servers(os.environ, folder)
        if recorded:
            overrides["kafka_bootstrap_servers"] = recorded
        overrides |= _of_dev(dev)
    return read(RuntimeSettings, **overrides)


def _of_dev(dev: DevState | None) -> dict[str, Any]:
    if dev is None:
        return {}
    settings = {"topic_prefix": dev.topic_prefix, "partitions": dev.partitions}
    return {name: value for name, value in settings.items() if f"BACKSTOP_{name.upper()}" not in os.environ}


def settings(
    output: Output = Form.TABLE,
    only: Annotated[str | None, typer.Option(help="Only settings whose name contains this.")] = None,
) -> None:
    """Print every setting with its value and meaning. Values of secrets are hidden."""
    warn_of_unknown(os.environ)
    rows: dict[str, dict[str, Any]] = {}
    for module, name in SETTINGS_CLASSES:
        kind: type[BaseSettings] = getattr(import_module(module), name)
        for row in _rows(kind, module.split(".")[-2]):
            rows.setdefault(row["setting"], row)
    wanted = [row for row in rows.values() if only is None or only.lower() in row["setting"].lower()]
    emit(wanted, output, ("setting", "value", "source", "process", "description"))


def _rows(kind: type[BaseSettings], process: str) -> Iterator[dict[str, Any]]:
    """One row per setting, also for each setting of a group (`BACKSTOP_SUBMISSION_…`)."""
    values = read(kind)
    for field, info in kind.model_fields.items():
        value, variable = getattr(values, field), _variable(kind, field)
        parts = [(variable, value, info, field in values.model_fields_set)]
        if isinstance(value, BaseModel):
            parts = [
                (f"{variable}_{name}".upper(), getattr(value, name), part, name in value.model_fields_set)
                for name, part in type(value).model_fields.items()
            ]
        for name, shown, described, given in parts:
            yield {
                "setting": name,
                "value": _shown(shown),
                "source": "set" if given else "default",
                "process": process,
                "description": described.description or "",
            }


def _variable(kind: type[BaseSettings], field: str) -> str:
    alias = kind.model_fields[field].validation_alias
    choices = getattr(alias, "choices", [alias] if isinstance(alias, str) else [])
    if choices:
        return str(choices[0]).upper()
    return f"{kind.model_config.get('env_prefix', '')}{field}".upper()


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN if value.get_secret_value() else ""
    if isinstance(value, tuple | list) and any(isinstance(part, SecretStr) for part in value):
        return f"{len(value)} {HIDDEN}"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool | int | float) or value is None else str(value)

"""Makes `docs/openapi.json` from the routes of `backstop serve`; a test compares the two.

`python -m backstop.cli.openapi_page > docs/openapi.json`
"""

import sys
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backstop.readmodel.opening import database_at
from backstop.runtime.http.health import Health
from backstop.runtime.http.routes import declared
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.process.logs import configure
from receiver.limits import Limits
from receiver.openapi import document
from receiver.serve import application
from receiver.settings import ReceiverSettings

NOWHERE = Path("/nonexistent")
SECRET = "whsec_" + "A" * 32  # signs nothing here; the webhook ingress needs one to be built


def app() -> web.Application:
    """All routes, composed with the settings' defaults. Opens no file and no connection."""
    settings = ReceiverSettings(
        webhook_secrets=(SecretStr(SECRET),),
        data_dir=NOWHERE,
        keys_file=None,
        development=True,
        host="127.0.0.1",
        admin_port=0,
    )
    database = database_at(f"sqlite:///{NOWHERE}/readmodel.db", _no_time)
    publisher = KafkaPublisher(settings, "receiver")
    return application(settings, publisher, database, _no_time, Limits(), Health("serve"), CollectorRegistry())


def page() -> bytes:
    """The whole document as indented JSON, with a final newline."""
    made: dict[str, Any] = document(declared(app()).values())
    return orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _no_time() -> int:
    return 0


if __name__ == "__main__":
    configure("console", "error")  # logs go to stderr: stdout is the page
    sys.stdout.buffer.write(page())

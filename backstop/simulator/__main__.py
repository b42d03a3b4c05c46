"""`backstop simulator`, also `python -m backstop.simulator`: see docs/simulator.md."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from backstop.simulator.app import SIMULATOR, build_app
from backstop.simulator.config import EndpointProfile, SimulatorConfig
from backstop.simulator.errors import ConfigError
from backstop.simulator.listener import Ingress
from backstop.simulator.loading import load_profile

SHUTDOWN_S = 1.0


def _arguments(argv: list[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description="A simulator of OpenAI's background responses.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=0, help="0 = a free port")
    parser.add_argument(
        "--control-port", type=int, help="also listen here, and stay there while connections are refused"
    )
    parser.add_argument("--port-file", type=Path, help="file to write the port to, once the server listens")
    parser.add_argument("--profile", default="calm", help="a preset, a JSON file, or JSON text")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same faults")
    parser.add_argument("--api-key", action="append", help="repeatable; each is a project; or SIMULATOR_API_KEYS")
    parser.add_argument("--webhook-url", action="append", default=[], help="repeatable, paired with --webhook-secret")
    parser.add_argument("--webhook-secret", action="append", default=[], help="or SIMULATOR_WEBHOOK_SECRETS")
    parser.add_argument("--time-scale", type=float, default=1.0, help="simulated seconds per real second")
    parser.add_argument("--ledger-dir", type=Path, help="folder for the ledgers as JSON lines")
    return parser.parse_args(argv)


@dataclass(frozen=True, slots=True)
class _Places:
    """The addresses to listen on, and the file to write the port to."""

    host: str
    port: int
    port_file: Path | None
    control_port: int | None


def _from_environment(name: str) -> list[str]:
    """The values of `NAME`, comma-separated, or of the file that `NAME_FILE` names."""
    path = os.environ.get(f"{name}_FILE", "")
    try:
        text = Path(path).read_text() if path else os.environ.get(name, "")
    except OSError as error:
        raise ConfigError(f"{name}_FILE={path} can't be read: {error.strerror}") from None
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def read_config(argv: list[str], prog: str = "simulator") -> tuple[SimulatorConfig, _Places]:
    """Configuration and addresses from the command line.

    :raises ConfigError: says what is wrong.
    """
    given = _arguments(argv, prog)
    # A command line is visible in the list of processes, so secrets may come from the environment instead.
    given.api_key = given.api_key or _from_environment("SIMULATOR_API_KEYS")
    given.webhook_secret = given.webhook_secret or _from_environment("SIMULATOR_WEBHOOK_SECRETS")
    if len(given.webhook_url) != len(given.webhook_secret):
        raise ConfigError("--webhook-url and --webhook-secret come in pairs")
    pairs = zip(given.webhook_url, given.webhook_secret, strict=True)
    config = SimulatorConfig(
        profile=load_profile(given.profile),
        seed=given.seed,
        api_keys=tuple(given.api_key or ("sk-simulator",)),
        endpoints=tuple(EndpointProfile(url, (secret,)) for url, secret in pairs),
        time_scale=given.time_scale,
        ledger_dir=given.ledger_dir,
    )
    return config, _Places(given.host, given.port, given.port_file, given.control_port)


async def _run(config: SimulatorConfig, places: _Places) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build_app(config)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        ingress = Ingress(runner, places.host, places.port)
        await ingress.open()
        app[SIMULATOR].incidents.ingress = ingress
        if places.control_port is not None:
            await web.TCPSite(runner, places.host, places.control_port).start()
        if places.port_file is not None:
            _write_atomically(places.port_file, str(ingress.port))
        print(f"simulator listening on http://{places.host}:{ingress.port}", flush=True)
        await stop.wait()
        await ingress.close()
    finally:
        await runner.cleanup()


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def main(argv: list[str], prog: str = "simulator") -> int:
    """Serve until SIGTERM or SIGINT. Exit code 2: a setting is wrong."""
    os.umask(0o077)  # ledgers hold prompts
    try:
        config, places = read_config(argv, prog)
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    # Objects made by imports live as long as the process: keep them out of garbage collection.
    gc.collect()
    gc.freeze()
    uvloop.run(_run(config, places))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

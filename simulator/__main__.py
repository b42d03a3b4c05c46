"""`python -m simulator`: see docs/simulator.md."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from simulator.app import build_app
from simulator.catalogue import ConfigError
from simulator.config import Endpoint, SimulatorConfig
from simulator.loading import load_profile

SHUTDOWN_S = 1.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulator", description="A stand-in for OpenAI's background responses.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--port-file", type=Path, help="gets the port once the server listens")
    parser.add_argument("--profile", default="calm", help="a preset, a JSON file, or JSON text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--api-key", action="append", help="repeatable; each is a project; or SIMULATOR_API_KEYS")
    parser.add_argument("--webhook-url", action="append", default=[], help="repeatable, paired with --webhook-secret")
    parser.add_argument("--webhook-secret", action="append", default=[], help="or SIMULATOR_WEBHOOK_SECRETS")
    parser.add_argument("--time-scale", type=float, default=1.0, help="simulated seconds per real second")
    parser.add_argument("--ledger-dir", type=Path, help="folder for the ledgers as JSON lines")
    return parser.parse_args(argv)


def _from_environment(name: str) -> list[str]:
    """The values of `NAME`, comma-separated, or of the file that `NAME_FILE` names."""
    path = os.environ.get(f"{name}_FILE", "")
    try:
        text = Path(path).read_text() if path else os.environ.get(name, "")
    except OSError as error:
        raise ConfigError(f"{name}_FILE={path} can't be read: {error.strerror}") from None
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def read_config(argv: list[str]) -> tuple[SimulatorConfig, str, int, Path | None]:
    """Configuration, address, port and port file from the command line; ConfigError says what is wrong."""
    given = _arguments(argv)
    # Whoever lists processes sees a command line; so secrets may come by the environment instead.
    given.api_key = given.api_key or _from_environment("SIMULATOR_API_KEYS")
    given.webhook_secret = given.webhook_secret or _from_environment("SIMULATOR_WEBHOOK_SECRETS")
    if len(given.webhook_url) != len(given.webhook_secret):
        raise ConfigError("--webhook-url and --webhook-secret come in pairs")
    pairs = zip(given.webhook_url, given.webhook_secret, strict=True)
    config = SimulatorConfig(
        profile=load_profile(given.profile),
        seed=given.seed,
        api_keys=tuple(given.api_key or ("sk-simulator",)),
        endpoints=tuple(Endpoint(url, (secret,)) for url, secret in pairs),
        time_scale=given.time_scale,
        ledger_dir=given.ledger_dir,
    )
    return config, given.host, given.port, given.port_file


async def _run(config: SimulatorConfig, host: str, port: int, port_file: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(build_app(config), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        if port_file is not None:
            _write_atomically(port_file, str(bound))
        print(f"simulator listening on http://{host}:{bound}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 if a setting is wrong."""
    os.umask(0o077)  # ledgers hold prompts
    try:
        config, host, port, port_file = read_config(sys.argv[1:])
    except ConfigError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    # What the imports made lives as long as we do: no collection need look through it again.
    gc.collect()
    gc.freeze()
    uvloop.run(_run(config, host, port, port_file))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

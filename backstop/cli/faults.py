"""The option that names the simulator's fault profile. A profile that can't be read is refused before any start."""

from typing import Annotated

import typer


def _readable(profile: str) -> str:
    # Imported here, so that only commands with a simulator pay for it.
    from backstop.simulator.errors import ConfigError  # noqa: PLC0415
    from backstop.simulator.loading import load_profile  # noqa: PLC0415

    try:
        load_profile(profile)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return profile


Faults = Annotated[
    str,
    typer.Option(
        callback=_readable, help="Fault profile of the simulator: calm, demo, rough, torture, outlast, a file, or JSON."
    ),
]

"""The setting of prices, by which costs are counted and the caps of jobs are stamped."""

from importlib import resources
from pathlib import Path
from typing import Final

from pydantic import Field

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.settings import RuntimeSettings
from streams.policy.prices import Prices, PricesError, read_prices

SHIPPED_PRICES: Final = resources.files("streams.policy").joinpath("price_list.toml").read_text("utf-8")


class PriceSettings(RuntimeSettings):
    """The list of prices."""

    prices_file: Path | None = Field(
        default=None,
        description="Own list of prices (TOML) beside the shipped one; its rows replace those of the models that it "
        "names. Read at the start of each process.",
    )

    def prices(self) -> Prices:
        """The prices in force: the shipped list, and the operator's own.

        :raises ConfigurationError: the operator's list can't be read, or breaks a rule.
        """
        if self.prices_file is None:
            return read_prices(SHIPPED_PRICES)
        try:
            return read_prices(SHIPPED_PRICES, self.prices_file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, PricesError) as error:
            raise ConfigurationError(
                f"BACKSTOP_PRICES_FILE {self.prices_file}: {error}. Correct the file, or unset the setting to use the "
                "shipped list."
            ) from None

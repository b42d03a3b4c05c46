"""`python -m backstop.cli` is `backstop`. The supervisor starts its children this way, independent of the PATH."""

from backstop.cli.main import main

main()

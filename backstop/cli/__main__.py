"""`python -m backstop.cli` is `backstop`: how the supervisor starts its children, whatever is on the PATH."""

from backstop.cli.main import main

main()

"""`python -m cli` is `backstop`: how the supervisor starts its children, whatever is on the PATH."""

from cli.main import main

main()

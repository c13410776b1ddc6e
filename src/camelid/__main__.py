"""`python -m camelid` is the `camelid` command."""

from camelid.cli import main

main()

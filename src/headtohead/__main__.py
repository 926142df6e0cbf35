"""`python -m headtohead` is the command `headtohead`."""

from headtohead.cli import main

main()

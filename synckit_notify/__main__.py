"""`python -m synckit_notify` is the `synckit` command."""

from .cli import main

main(prog_name="synckit")

"""Run the command `synckit` as `python -m synckit_notify`."""

from .cli import main

main(prog_name="synckit")

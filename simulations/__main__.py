"""``python -m simulations``: the `fedrad` command for processes that are started by path."""

from simulations.cli import main

main()

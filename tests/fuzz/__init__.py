"""What arrives from outside is decoded or refused, whatever it is; `python -m tests.fuzz` tries for longer."""

"""The coordinator: asks questions and combines the answers."""

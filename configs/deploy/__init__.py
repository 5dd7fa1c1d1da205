"""Deployment: container files, compose files, systemd units, and the offline bundle (docs/deployment.md)."""

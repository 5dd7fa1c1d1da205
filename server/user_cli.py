"""`fedrad coordinator user`: who may see the web page, and who may act on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import StateError

user_app = typer.Typer(no_args_is_help=True, help="Who may see the web page, and who may act on it.")

Name = Annotated[str, typer.Argument(help="The user's name.")]
Home = Annotated[Path, typer.Option(help="Folder of the authority.")]


@user_app.command()
def add(
    name: Name,
    home: Home,
    role: Annotated[str, typer.Option(help="[b]viewer[/] sees; [b]operator[/] also approves, pauses, aborts.")],
) -> None:
    """Add a user, or give one a new password and role; the password is asked for (12 characters or more)."""
    from server.users import Users

    if role not in ("viewer", "operator"):
        raise StateError(f"role {role!r}: expected viewer or operator")
    if not home.is_dir():
        raise StateError(f"folder {home} does not exist")
    password = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    Users(home).add(name, password, "operator" if role == "operator" else "viewer")
    _say(f"{name} is {role}")


@user_app.command()
def remove(name: Name, home: Home) -> None:
    """Remove a user, who is out at the next request."""
    from server.users import Users

    Users(home).remove(name)
    _say(f"{name} is removed")


@user_app.command("list")
def list_users(home: Home) -> None:
    """Names and roles."""
    from server.users import Users

    for name, user in Users(home).read().items():
        _say(f"{name}  {user.role}")


def _say(text: str) -> None:
    Console(emoji=False).print(text, highlight=False, markup=False, soft_wrap=True)

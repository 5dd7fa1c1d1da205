"""Who may see the web page, and who may act on it: names, roles and scrypt hashes in HOME/users.json.

A hash is scrypt (RFC 7914) with 32 MiB and three passes, a salt of its own for each user, and its parameters beside it,
so that they can grow. The file is read again when it changes: who is removed is out at the next request.
"""

from __future__ import annotations

import hmac
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from common.errors import StateError
from common.files import write_atomic

USERS_FILE = "users.json"
Role = Literal["viewer", "operator"]
SALT_BYTES, KEY_BYTES = 16, 32
COST, BLOCK, PASSES = 2**15, 8, 3
"""scrypt's N, r and p."""
SHORTEST_PASSWORD = 12


@dataclass(frozen=True)
class User:
    """One entry; ``salt`` and ``key`` in hexadecimal."""

    role: Role
    salt: str
    key: str
    cost: int = COST
    block: int = BLOCK
    passes: int = PASSES

    @classmethod
    def of(cls, password: str, role: Role) -> User:
        user = cls(role, os.urandom(SALT_BYTES).hex(), "")
        return replace(user, key=user._derived(password).hex())

    def fits(self, password: str) -> bool:
        return hmac.compare_digest(self._derived(password), bytes.fromhex(self.key))

    def _derived(self, password: str) -> bytes:
        salt = bytes.fromhex(self.salt)
        scrypt = Scrypt(salt=salt, length=KEY_BYTES, n=self.cost, r=self.block, p=self.passes)
        return scrypt.derive(password.encode())


NOBODY = User("viewer", "00" * SALT_BYTES, "00" * KEY_BYTES)
"""Compared with where no user has the name, so that an unknown name takes as long as a wrong password."""


class Users:
    """The users file of a coordinator; without the file there are no users."""

    def __init__(self, home: Path) -> None:
        self._path = home / USERS_FILE

    def read(self) -> dict[str, User]:
        """All users, sorted by name.

        Raises
        ------
        StateError
            If the file is damaged.
        """
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            users = {str(name): User(**values) for name, values in sorted(content.items())}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{self._path} cannot be read: {error}") from error
        strange = [name for name, user in users.items() if user.role not in get_args(Role)]
        if strange:
            raise StateError(f"{self._path}: unknown role of {', '.join(strange)}")
        return users

    def add(self, name: str, password: str, role: Role) -> None:
        """Add a user, or replace password and role of one.

        Raises
        ------
        StateError
            If the password is shorter than 12 characters.
        """
        if len(password) < SHORTEST_PASSWORD:
            raise StateError(f"a password has at least {SHORTEST_PASSWORD} characters, got {len(password)}")
        self._write(self.read() | {name: User.of(password, role)})

    def remove(self, name: str) -> None:
        """Remove a user; StateError where there is none of that name."""
        users = self.read()
        if name not in users:
            raise StateError(f"no user {name}")
        del users[name]
        self._write(users)

    def check(self, name: str, password: str) -> Role | None:
        """The role of the user, or None where name or password is wrong."""
        user = self.read().get(name, NOBODY)
        return user.role if user.fits(password) and user is not NOBODY else None

    def _write(self, users: dict[str, User]) -> None:
        content = {name: asdict(user) for name, user in sorted(users.items())}
        write_atomic(self._path, json.dumps(content, indent=1).encode())

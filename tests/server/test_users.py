"""Users, sessions and the limit on guesses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from common.errors import StateError
from server.sessions import ATTEMPTS, IDLE_S, LONGEST_S, WINDOW_S, LoginLimit, Sessions
from server.users import USERS_FILE, User, Users
from tests.commands import fedrad

PASSWORD = "correct horse battery"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_hash_is_scrypt_with_the_parameters_that_stand_beside_it() -> None:
    user = User.of(PASSWORD, "viewer")
    scrypt = Scrypt(salt=bytes.fromhex(user.salt), length=32, n=user.cost, r=user.block, p=user.passes)
    scrypt.verify(PASSWORD.encode(), bytes.fromhex(user.key))
    assert user.fits(PASSWORD)
    assert not user.fits(PASSWORD + " ")
    assert User.of(PASSWORD, "viewer").key != user.key  # another salt


def test_users_are_added_replaced_and_removed(tmp_path: Path) -> None:
    users = Users(tmp_path)
    assert users.read() == {}
    users.add("vera", PASSWORD, "viewer")
    assert users.check("vera", PASSWORD) == "viewer"
    assert users.check("vera", "something else") is None
    assert users.check("nobody", PASSWORD) is None
    users.add("vera", PASSWORD[::-1], "operator")
    assert users.check("vera", PASSWORD) is None
    assert users.check("vera", PASSWORD[::-1]) == "operator"
    assert (tmp_path / USERS_FILE).stat().st_mode & 0o077 == 0
    assert PASSWORD not in (tmp_path / USERS_FILE).read_text()
    users.remove("vera")
    assert users.read() == {}
    with pytest.raises(StateError, match="no user"):
        users.remove("vera")


def test_short_passwords_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="12 characters"):
        Users(tmp_path).add("vera", "short", "viewer")
    (tmp_path / USERS_FILE).write_text(json.dumps({"vera": {"role": "king", "salt": "", "key": ""}}))
    with pytest.raises(StateError, match="unknown role of vera"):
        Users(tmp_path).read()
    (tmp_path / USERS_FILE).write_text("{")
    with pytest.raises(StateError, match="cannot be read"):
        Users(tmp_path).read()


def test_the_command_asks_for_the_password_and_never_shows_it(tmp_path: Path) -> None:
    typed = f"{PASSWORD}\n{PASSWORD}\n"
    done = fedrad("coordinator", "user", "add", "vera", "--home", tmp_path, "--role", "viewer", answer=typed)
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert "vera  viewer" in fedrad("coordinator", "user", "list", "--home", tmp_path).output
    assert fedrad("coordinator", "user", "remove", "vera", "--home", tmp_path).exit_code == 0
    wrong = fedrad("coordinator", "user", "add", "vera", "--home", tmp_path, "--role", "king", answer=typed)
    assert isinstance(wrong.exception, StateError)


def test_a_session_ends_when_idle_when_old_and_when_said() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.begin("vera", "viewer")
    assert sessions.of("another") is None
    for _ in range(int(LONGEST_S / IDLE_S)):
        clock.now += IDLE_S - 1
        assert sessions.of(token) is not None
    clock.now += IDLE_S - 1
    assert sessions.of(token) is None
    token = sessions.begin("vera", "viewer")
    clock.now += IDLE_S
    assert sessions.of(token) is None
    token = sessions.begin("vera", "viewer")
    sessions.end(token)
    assert sessions.of(token) is None


def test_after_five_failures_in_a_minute_one_waits() -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    for _ in range(ATTEMPTS):
        assert limit.wait_s("name vera", "address here") == 0
        limit.failed("name vera", "address here")
        clock.now += 1
    assert limit.wait_s("name vera") == WINDOW_S - ATTEMPTS
    assert limit.wait_s("name otto", "address here") > 0
    assert limit.wait_s("name otto", "address there") == 0
    clock.now += WINDOW_S
    assert limit.wait_s("name vera") == 0
    limit.passed("name vera")
    limit.failed("name vera")
    assert limit.wait_s("name vera") == 0

"""Who is logged in to the web page, and how fast somebody may guess: both in memory, gone with the process."""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from server.users import Role

IDLE_S, LONGEST_S = 30 * 60.0, 12 * 3600.0
"""A session ends after half an hour without a request, and after twelve hours in any case."""
ATTEMPTS, WINDOW_S = 5, 60.0
"""Failed logins in a minute, of one name and of one address, after which each further one is refused unseen."""
MOST_KEYS = 1000


@dataclass
class Session:
    """One login; ``csrf`` must come with everything that changes something."""

    user: str
    role: Role
    csrf: str
    began: float
    seen: float


class Sessions:
    """Sessions by the digest of their token, so that no memory dump holds a cookie."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def begin(self, user: str, role: Role) -> str:
        """A new session's token, for the cookie."""
        now = self._clock()
        self._sessions = {key: session for key, session in self._sessions.items() if self._alive(session)}
        token = secrets.token_urlsafe(32)
        self._sessions[_key(token)] = Session(user, role, secrets.token_urlsafe(32), now, now)
        return token

    def of(self, token: str) -> Session | None:
        """The living session of a token."""
        session = self._sessions.get(_key(token))
        if session is None or not self._alive(session):
            self._sessions.pop(_key(token), None)
            return None
        session.seen = self._clock()
        return session

    def end(self, token: str) -> None:
        self._sessions.pop(_key(token), None)

    def _alive(self, session: Session) -> bool:
        now = self._clock()
        return now - session.seen < IDLE_S and now - session.began < LONGEST_S


class LoginLimit:
    """Counts failed logins by name and by address."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=ATTEMPTS))

    def wait_s(self, *keys: str) -> float:
        """Seconds until another attempt is let in; 0 where it is now."""
        now = self._clock()
        waits = [times[0] + WINDOW_S - now for key in keys if len(times := self._failed.get(key, deque())) == ATTEMPTS]
        return max([0.0, *waits])

    def failed(self, *keys: str) -> None:
        now = self._clock()
        if len(self._failed) > MOST_KEYS:
            self._failed = defaultdict(
                lambda: deque(maxlen=ATTEMPTS), {k: v for k, v in self._failed.items() if now - v[-1] < WINDOW_S}
            )
        for key in keys:
            self._failed[key].append(now)

    def passed(self, *keys: str) -> None:
        for key in keys:
            self._failed.pop(key, None)


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

"""What is remembered against replayed requests: long enough, and no longer."""

from __future__ import annotations

import tracemalloc

from server.admission import CLOCK_TOLERANCE_S, Remembered

WINDOW_S = 600.0
STEP_S = 0.1
"""Between two requests, on a clock that the test moves."""


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def entry(number: int) -> bytes:
    return number.to_bytes(16)


def test_an_entry_is_known_for_a_window_at_least_and_let_go_of_after_two() -> None:
    for phase in (0.0, 0.3, 0.999):
        clock = Clock()
        memory = Remembered(WINDOW_S, clock)
        clock.at = phase * WINDOW_S
        assert memory.first_time(entry(0))
        first, number = clock.at, 0
        while clock.at < first + WINDOW_S:
            clock.at, number = clock.at + 10.0, number + 1
            assert memory.first_time(entry(number))
            assert not memory.first_time(entry(0))
        clock.at = first + 2 * WINDOW_S + 1
        assert memory.first_time(entry(number + 1))  # a turn
        clock.at += WINDOW_S + 1
        assert memory.first_time(entry(number + 2))
        assert memory.first_time(entry(0))


def test_the_window_is_twice_the_tolerance_of_clocks() -> None:
    """Stamped five minutes ahead, a request would be accepted until five minutes after its time."""
    assert WINDOW_S == 2 * CLOCK_TOLERANCE_S
    clock = Clock()
    memory = Remembered(WINDOW_S, clock)
    for at in (0.0, 599.0, 601.0, 1000.0, 1199.0):
        clock.at = at
        assert memory.first_time(f"sent {at}".encode())
    for at in (601.0, 1000.0, 1199.0, 599.0):
        assert not memory.first_time(f"sent {at}".encode())
    for at in (1799.0, 2400.5, 3001.0):
        clock.at = at
        assert memory.first_time(f"sent {at}".encode())
    assert len(memory) < 8


def test_memory_stays_where_it_was_after_two_windows() -> None:
    """Twelve windows, two hours of ten requests a second: no more entries and no more bytes than after three."""
    clock = Clock()
    memory = Remembered(WINDOW_S, clock)
    each = int(WINDOW_S / STEP_S)
    tracemalloc.start()
    try:
        held = []
        for number in range(12 * each):
            clock.at += STEP_S
            assert memory.first_time(entry(number))
            if number % each == each - 2:  # at the end of a window, when most is held
                held.append((len(memory), tracemalloc.get_traced_memory()[0]))
    finally:
        tracemalloc.stop()
    entries, taken = zip(*held, strict=True)
    assert max(entries) <= 2 * (each + 1)
    assert min(entries[2:]) > each
    assert max(taken[3:]) < 1.05 * taken[2]

from __future__ import annotations

from simulations.benchmarks import statistics


def test_small_benchmark_meets_its_targets(capsys):
    assert statistics.main(["--small"]) == 0
    printed = capsys.readouterr().out
    assert "200 features x 4 sites x 800 cases" in printed
    assert "do not depend on the number of cases" in printed

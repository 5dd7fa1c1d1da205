from __future__ import annotations

from simulations.benchmarks.secure_aggregation import STEPS, against_plain, with_losses


def test_rounds_of_few_sites_are_counted_and_exact(tmp_path, capsys):
    against_plain(tmp_path, 4, 50_000)
    assert with_losses(tmp_path / "many", 10, 100)
    printed = capsys.readouterr().out
    assert "4 sites, 50,000 parameters, medians of 3" in printed
    assert "sums exact: yes" in printed
    in_sum = {line.split()[0]: int(line.split()[1]) for line in printed.splitlines() if line.startswith(STEPS)}
    assert in_sum == {
        "AdvertiseKeys": 7,
        "ShareKeys": 7,
        "MaskedInput": 7,
        "ConsistencyCheck": 10,
        "Unmask": 10,
    }

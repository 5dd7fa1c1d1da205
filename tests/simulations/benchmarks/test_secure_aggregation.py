from __future__ import annotations

from simulations.benchmarks import masked_rounds
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


def test_rounds_over_the_network_are_counted_for_each_kind(capsys):
    masked_rounds.main(["--sites", "4", "--parameters", "2000", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "4 sites over TLS, 2,000 parameters, medians of 1" in printed
    costs = [line for line in printed.splitlines() if line.startswith(("plain", "masked"))]
    assert [float(line.split()[-1]) > 0 for line in costs] == [True] * 3

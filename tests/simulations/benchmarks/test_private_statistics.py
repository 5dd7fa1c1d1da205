from simulations.benchmarks.private_statistics import EPSILONS, of_scores, of_site_level, of_statistics


def test_without_noise_nothing_is_lost_and_with_much_the_least_is_found():
    rows = of_statistics(n_features=12, n_cases=400, learn=False)
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "none"]
    assert rows[-1][2:] == ["0.000", "0.000", "10 of 10"]
    assert float(rows[0][2]) > float(rows[3][2]) > 0


def test_learned_ranges_say_where_they_found_none():
    rows = of_statistics(n_features=12, n_cases=400, learn=True)
    assert rows[0][2] == "no range found"
    assert float(rows[-1][2]) < 0.05


def test_scores_and_rounds_come_back_with_the_noise():
    scores = of_scores(400)
    assert len(scores) == len(EPSILONS)
    assert float(scores[0][3]) > float(scores[-1][3])
    rounds = of_site_level(3, n_features=5)
    assert float(rounds[0][2]) > 1 > float(rounds[-1][2])
    assert float(rounds[-1][3]) > 0.6

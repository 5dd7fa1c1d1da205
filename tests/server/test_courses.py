from __future__ import annotations

from server.courses import FEDERATED, Course, groups_of, pooled_group
from tests.server.memory_sites import study


def test_the_federated_course_trains_at_all_training_sites_and_local_ones_at_one_each():
    federated, local = groups_of(study())
    assert federated == (Course(FEDERATED, ("a", "b", "c")),)
    assert local == tuple(Course(f"local-{site}", (site,)) for site in "abc")


def test_local_courses_are_run_where_the_study_asks_and_they_differ():
    assert len(groups_of(study(("local_only = true", "local_only = false")))) == 1
    others = ("b", "c")
    alone = study(
        *((f'{{ name = "{s}" }}', f'{{ name = "{s}", role = "external" }}') for s in others),
        ("quorum = 2", "quorum = 1"),
    )
    assert groups_of(alone) == ((Course(FEDERATED, ("a",)),),)


def test_the_pooled_course_trains_at_a_site_of_its_name():
    assert pooled_group() == (Course("pooled", ("pooled",)),)

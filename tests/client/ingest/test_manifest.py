"""The manifest: each fault has its code and names its case, the other rows go on, and the counts add up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.manifest import Manifest, clinical_names, read_manifest
from common.config.study import StudyConfig
from common.errors import CaseError, Code, ConfigError
from tests.client.cases import COLUMNS, STUDY, row, study, write_manifest

GOOD = row("p1", malignant="1", age="71.5", sex="m")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files for p1, p2 and p3; the manifest looks only whether they are there."""
    for case_id in ("p1", "p2", "p3"):
        for part in ("ct", "roi"):
            touch(tmp_path / "images" / case_id / f"{part}.nii.gz")
    return tmp_path / "images"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def read(data: Path, rows: list[dict[str, str]], of: StudyConfig | None = None, columns=COLUMNS) -> Manifest:
    path = write_manifest(data.parent / "cases.csv", rows, columns)
    manifest = read_manifest(path, of or study(), data=data, site="north")
    assert len(manifest.rows) + len(manifest.faults) == len(rows)
    return manifest


def read_text(data: Path, text: str | bytes) -> Manifest:
    path = data.parent / "cases.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_manifest(path, study(), data=data, site="north")


def fault_of(data: Path, bad: dict[str, str], of: StudyConfig | None = None, columns=COLUMNS) -> CaseError:
    """The one fault of a manifest whose other row is good."""
    good = row("p2") | {name: value for name, value in bad.items() if name not in COLUMNS}
    manifest = read(data, [bad, good], of, columns)
    assert [entry.case_id for entry in manifest.rows] == ["p2"]
    (fault,) = manifest.faults
    assert fault.case_id in str(fault)
    return fault


def test_a_good_row_is_read_to_the_last_cell(data: Path):
    (found,) = read(data, [GOOD]).rows
    assert (found.case_id, found.site, found.outcome) == ("p1", "north", (1.0,))
    assert found.clinical == {"age": 71.5, "sex=m": 1.0}
    assert found.images["ct"].image == data / "p1" / "ct.nii.gz"
    assert found.images["ct"].roi == data / "p1" / "roi.nii.gz"


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "NaN", "null", "None", "."])
def test_a_missing_clinical_value_is_imputed_later(data: Path, cell: str):
    (found,) = read(data, [GOOD | {"age": cell, "sex": cell}]).rows
    assert list(found.clinical) == ["age", "sex=m"]
    assert all(value != value for value in found.clinical.values())


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"malignant": "2"}, Code.OUTCOME_INVALID, "case p1: malignant is '2', expected one of 0, 1"),
        ({"malignant": "1.0"}, Code.OUTCOME_INVALID, "case p1: malignant is '1.0', expected one of 0, 1"),
        ({"malignant": ""}, Code.OUTCOME_MISSING, "case p1: malignant is empty"),
        ({"malignant": "NA"}, Code.OUTCOME_MISSING, "case p1: malignant is empty"),
        ({"age": "17"}, Code.CLINICAL_INVALID, "case p1: age is 17, expected 18 to 110"),
        ({"age": "110.5"}, Code.CLINICAL_INVALID, "case p1: age is 110.5, expected 18 to 110"),
        ({"age": "old"}, Code.CLINICAL_INVALID, "case p1: age is 'old', expected a number"),
        ({"age": "inf"}, Code.CLINICAL_INVALID, "case p1: age is 'inf', expected a number"),
        ({"age": "5_0"}, Code.CLINICAL_INVALID, "case p1: age is '5_0', expected a number"),
        ({"age": "50,5"}, Code.CLINICAL_INVALID, "case p1: age is '50,5', expected a number"),
        ({"sex": "male"}, Code.CLINICAL_INVALID, "case p1: sex is 'male', expected one of f, m"),
        ({"case_id": ""}, Code.COLUMN_MISSING, "case in line 2: column case_id is empty or absent"),
        ({"case_id": "p2"}, Code.CASE_DUPLICATE, "case p2: line 3 repeats the case"),
        ({"case_id": "../p1"}, Code.CASE_INVALID, "case ../p1: case ids are letters, digits, dot, dash and underscore"),
        ({"case_id": ".p1"}, Code.CASE_INVALID, "case ids are"),
        ({"case_id": "p" * 65}, Code.CASE_INVALID, "case ids are"),
        ({"case_id": "p9"}, Code.FILE_MISSING, "case p9: no file "),
    ],
)
def test_each_fault_has_its_code_and_names_its_case(data: Path, change: dict[str, str], code: Code, sentence: str):
    fault = fault_of(data, GOOD | change)
    assert fault.code == code
    assert sentence in str(fault)


def test_a_repeated_case_is_refused_though_its_first_row_was_at_fault(data: Path):
    manifest = read(data, [GOOD | {"age": "5"}, GOOD])
    assert [fault.code for fault in manifest.faults] == [Code.CLINICAL_INVALID, Code.CASE_DUPLICATE]


def test_a_missing_roi_is_named(data: Path):
    (data / "p1" / "roi.nii.gz").unlink()
    fault = fault_of(data, GOOD)
    assert fault.code == Code.FILE_MISSING
    assert str(data / "p1" / "roi.nii.gz") in str(fault)


@pytest.mark.parametrize("column", ["malignant", "age", "sex"])
def test_a_column_that_is_absent_is_said_of_every_case(data: Path, column: str):
    columns = [name for name in COLUMNS if name != column]
    manifest = read(data, [GOOD, row("p2")], columns=columns)
    assert [fault.code for fault in manifest.faults] == [Code.COLUMN_MISSING] * 2
    assert [str(fault) for fault in manifest.faults] == [f"case {c}: column {column} is absent" for c in ("p1", "p2")]


def test_without_a_case_column_every_line_is_at_fault(data: Path):
    manifest = read(data, [GOOD, row("p2")], columns=COLUMNS[1:])
    assert [fault.case_id for fault in manifest.faults] == ["in line 2", "in line 3"]


def test_a_short_row_lacks_its_last_columns_and_a_long_one_is_read(data: Path):
    manifest = read_text(data, "case_id,malignant,age,sex\np1,1\np2,0,60,f,what,is,this\np3,0,60,m\n")
    assert [entry.case_id for entry in manifest.rows] == ["p2", "p3"]
    assert [str(fault) for fault in manifest.faults] == ["case p1: column age is absent"]


def test_blank_lines_are_no_cases(data: Path):
    text = "case_id,malignant,age,sex\n\np1,1,70,m\n,,,\n   \n , ,\np2,0,60,f\n\n"
    manifest = read_text(data, text)
    assert [entry.case_id for entry in manifest.rows] == ["p1", "p2"]
    assert not manifest.faults


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_windows_lines_and_spaces_are_read(data: Path, newline: str):
    lines = ["case_id , malignant,age,sex,", ' p1 , 1 ,"70",m,']
    (found,) = read_text(data, b"\xef\xbb\xbf" + newline.join(lines).encode()).rows
    assert (found.case_id, found.outcome, found.clinical["age"]) == ("p1", (1.0,), 70.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no header line"),
        (b"\n\n", "has no header line"),
        (b"case_id;malignant;age;sex\np1;1;70;m\n", "semicolons"),
        (b"case_id,age,age,case_id\n", "column given twice: age\n  - column given twice: case_id"),
        (b"case_id,malignant,age,sex\np1,1,70,\xe9\n", "is not a CSV file in UTF-8"),
        (b'case_id,malignant,age,sex\np1,1,70,"m\np2,0,60,f\n', "is not a CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_as_a_whole(data: Path, content: bytes, reason: str):
    with pytest.raises(ConfigError) as caught:
        read_text(data, content)
    assert reason in str(caught.value)
    assert "cases.csv" in str(caught.value)


def test_a_manifest_that_is_not_there(tmp_path: Path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_manifest(path, study(), data=tmp_path, site="north")


@pytest.mark.parametrize("listed", ["../elsewhere.nii.gz", "/etc/passwd", "p1/../../x.nii"])
@pytest.mark.parametrize("part", ["image", "roi"])
def test_a_path_cannot_leave_the_data_folder(data: Path, listed: str, part: str):
    columns = (*COLUMNS, f"ct_{part}")
    manifest = read(data, [GOOD | {f"ct_{part}": listed}, row("p2")], columns=columns)
    (fault,) = manifest.faults
    assert (fault.case_id, fault.code) == ("p1", Code.CASE_INVALID)
    assert str(fault) == f"case p1: ct {part} path leaves the data folder"


def test_the_manifest_may_list_paths(data: Path):
    touch(data / "other" / "scan.nii")
    (found,) = read(data, [GOOD | {"ct_image": "other/scan.nii"}], columns=(*COLUMNS, "ct_image")).rows
    assert found.images["ct"].image == data / "other" / "scan.nii"
    assert found.images["ct"].roi == data / "p1" / "roi.nii.gz"


def test_a_path_that_the_system_refuses_is_one_fault(data: Path):
    fault = read(data, [GOOD | {"ct_image": "x" * 300}], columns=(*COLUMNS, "ct_image")).faults[0]
    assert fault.code == Code.FILE_UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may look everywhere")
def test_a_folder_without_permission_is_one_fault(data: Path):
    (data / "p1").chmod(0)
    try:
        fault = fault_of(data, GOOD)
    finally:
        (data / "p1").chmod(0o700)
    assert fault.code == Code.FILE_UNREADABLE


def test_rows_of_another_site_are_faults_at_a_hospital(data: Path):
    of = study(STUDY, ('title = "Small"', 'title = "Small"\nsite_column = "site"'))
    columns = (*COLUMNS, "site")
    rows = [GOOD | {"site": "north"}, row("p2") | {"site": "south"}, row("p3") | {"site": "mars"}]
    manifest = read(data, rows, of, columns)
    assert [entry.case_id for entry in manifest.rows] == ["p1"]
    assert [(fault.case_id, fault.code) for fault in manifest.faults] == [
        ("p2", Code.SITE_UNKNOWN),
        ("p3", Code.SITE_UNKNOWN),
    ]
    assert str(manifest.faults[1]) == "case p3: site 'mars', expected north"
    everywhere = read_manifest(data.parent / "cases.csv", of, data=data, site=None)
    assert [entry.site for entry in everywhere.rows] == ["north", "south"]


def test_without_a_site_column_the_rows_are_the_hospitals(data: Path):
    write_manifest(data.parent / "cases.csv", [GOOD])
    nobody = read_manifest(data.parent / "cases.csv", study(), data=data, site=None)
    assert [fault.code for fault in nobody.faults] == [Code.SITE_UNKNOWN]


def outcome_study(outcome: str) -> StudyConfig:
    start, end = STUDY.index("outcome ="), STUDY.index("clinical =")
    return study(STUDY[:start] + f"outcome = {{ {outcome} }}\n" + STUDY[end:])


def test_a_number_as_outcome(data: Path):
    of = outcome_study('kind = "regression", column = "volume", unit = "ml"')
    columns = (*COLUMNS, "volume")
    assert read(data, [GOOD | {"volume": " 3.5"}], of, columns).rows[0].outcome == (3.5,)
    for cell, code in (("", Code.OUTCOME_MISSING), ("much", Code.OUTCOME_INVALID), ("1e999", Code.OUTCOME_INVALID)):
        assert read(data, [GOOD | {"volume": cell}], of, columns).faults[0].code == code


def test_survival_as_outcome(data: Path):
    of = outcome_study(
        'kind = "survival", event_column = "died", event_values = ["yes"], censored_values = ["no", "none"],'
        ' time_column = "days", interval_ends_days = [365]'
    )
    columns = (*COLUMNS, "died", "days")

    def one(died: str, days: str) -> Manifest:
        return read(data, [GOOD | {"died": died, "days": days}], of, columns)

    assert one("yes", "10").rows[0].outcome == (1.0, 10.0)
    assert one("none", "7.5").rows[0].outcome == (0.0, 7.5)
    for died, days, code in (
        ("maybe", "10", Code.OUTCOME_INVALID),
        ("", "10", Code.OUTCOME_MISSING),
        ("yes", "0", Code.OUTCOME_INVALID),
        ("yes", "-3", Code.OUTCOME_INVALID),
        ("yes", "", Code.OUTCOME_MISSING),
    ):
        assert one(died, days).faults[0].code == code


def test_a_label_may_be_a_word_that_elsewhere_means_not_known(data: Path):
    of = study(STUDY, ('["f", "m"]', '["none", "some"]'), ('values = ["0", "1"]', 'values = ["none", "1"]'))
    (found,) = read(data, [GOOD | {"sex": "none", "malignant": "none"}], of).rows
    assert (found.clinical["sex=some"], found.outcome) == (0.0, (0.0,))


def test_a_missing_value_may_exclude_instead(data: Path):
    of = study(STUDY, ('values = ["f", "m"] }', 'values = ["f", "m"], missing = "exclude" }'))
    fault = fault_of(data, GOOD | {"sex": "NA"}, of)
    assert (fault.code, str(fault)) == (Code.CLINICAL_MISSING, "case p1: sex is empty")


def test_coded_names_leave_out_the_first_category():
    of = study(STUDY, ('["f", "m"]', '["f", "m", "x"]'))
    assert clinical_names(of.clinical) == ("age", "sex=m", "sex=x")


FAULTS = (
    {},
    {"malignant": "9"},
    {"malignant": ""},
    {"age": "-1"},
    {"age": "x"},
    {"sex": "?"},
    {"case_id": ""},
    {"case_id": "p1"},
    {"case_id": "a/b"},
    {"case_id": "absent"},
)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.lists(st.sampled_from(FAULTS), max_size=3), max_size=12), blank=st.integers(0, 3))
def test_for_any_mixture_of_faults_the_counts_add_up(tmp_path_factory, changes: list[list[dict[str, str]]], blank: int):
    folder = tmp_path_factory.mktemp("mixture")
    rows = []
    for number, applied in enumerate(changes):
        cells = row(f"p{number}")
        for change in applied:
            cells |= change
        rows.append(cells)
        for part in ("ct", "roi"):
            touch(folder / "images" / f"p{number}" / f"{part}.nii.gz")
    path = write_manifest(folder / "cases.csv", rows)
    path.write_text(path.read_text() + ",,,\n" * blank)
    manifest = read_manifest(path, study(), data=folder / "images", site="north")
    assert len(manifest.rows) + len(manifest.faults) == len(rows)
    untouched = {f"p{n}" for n, applied in enumerate(changes) if not any(applied)}
    repeated = {"p1"} if any({"case_id": "p1"} in applied for applied in changes) else set()
    assert untouched - repeated <= {entry.case_id for entry in manifest.rows}
    assert len({entry.case_id for entry in manifest.rows}) == len(manifest.rows)

"""Files with faults: all of them are listed at once, in the words of the file; and the digest that parties compare."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from common.config.loading import Check, Frozen, digest, load, parse
from common.errors import ConfigError


class Circle(Frozen):
    kind: Literal["circle"]
    radius_mm: Annotated[float, Field(gt=0)]


class Box(Frozen):
    kind: Literal["box"]
    sides_mm: tuple[float, ...]


class Drawing(Frozen):
    """Has every kind of field: scalars, an array of tables, a union, an optional table, a rule between fields."""

    checks: ClassVar[tuple[Check, ...]] = (
        Check(
            ("first", "last"), lambda d: [] if d.first < d.last else [f"first {d.first} is not before last {d.last}"]
        ),
        Check(("title", "last"), lambda d: [] if d.title != "bad" else ["a bad title"]),
    )

    title: str
    first: int = 1
    last: int
    shapes: Annotated[tuple[Annotated[Circle | Box, Field(discriminator="kind")], ...], Field(min_length=1)]
    frame: Box | None = None
    folder: Path | None = None


GOOD = """
title = "t"
last = 3
[[shapes]]
kind = "circle"
radius_mm = 2
[[shapes]]
kind = "box"
sides_mm = [1.0, 2]
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Drawing, source="drawing.toml")
    assert caught.value.source == "drawing.toml"
    return list(caught.value.faults)


def test_a_good_file_is_what_it_says():
    drawing = parse(GOOD, Drawing, source="drawing.toml")
    assert drawing.shapes == (Circle(kind="circle", radius_mm=2), Box(kind="box", sides_mm=(1, 2)))
    assert drawing.first == 1


def test_every_kind_of_fault_is_listed_once():
    text = """
    first = 9
    title = 4
    colour = "red"
    [[shapes]]
    kind = "circle"
    [[shapes]]
    kind = "sphere"
    [frame]
    kind = "box"
    sides_mm = ["wide", 2]
    """
    assert faults_of(text) == [
        "title: got 4, expected text",
        "last: missing",
        "shapes[1].radius_mm: missing",
        "shapes[2].kind: got 'sphere', expected one of 'circle', 'box'",
        "frame.sides_mm[1]: got 'wide', expected a number",
        "colour: unknown key",
    ]


def test_rules_between_fields_are_judged_beside_other_faults():
    assert faults_of(GOOD.replace("last = 3", "last = 0\nx = 1")) == [
        "x: unknown key",
        "file: first 1 is not before last 0",
    ]
    assert faults_of(GOOD.replace("last = 3", "last = 0").replace('kind = "circle"\n', "")) == [
        "shapes[1].kind: missing",
        "file: first 1 is not before last 0",
    ]


def test_a_rule_is_not_judged_on_the_default_that_stands_in_for_a_wrong_value():
    assert faults_of(GOOD.replace("last = 3", 'last = 0\nfirst = "one"')) == [
        "first: got 'one', expected a whole number"
    ]
    assert faults_of(GOOD.replace('title = "t"', 'title = "bad"').replace("last = 3", 'last = "end"')) == [
        "last: got 'end', expected a whole number"
    ]


def test_several_sentences_of_one_rule_are_several_faults():
    assert len(faults_of(GOOD.replace("last = 3", "last = 0").replace('"t"', '"bad"'))) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('last = "3"', "last: got '3', expected a whole number"),
        ("last = true", "last: got True, expected a whole number"),
        ("last = 3.0", "last: got 3.0, expected a whole number"),
        ("last = [3]", "last: got an array, expected a whole number"),
        ("last = 3\nfolder = 4", "folder: got 4, expected text"),
        ("last = 3\nshapes = []", "shapes"),
    ],
)
def test_types_are_strict(line: str, fault: str):
    text = GOOD.replace("last = 3", line)
    if "shapes" in line:
        text = text.split("[[", maxsplit=1)[0]
    (got,) = faults_of(text)
    assert got.startswith(fault)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_are_finite(number: str):
    (fault,) = faults_of(GOOD.replace("radius_mm = 2", f"radius_mm = {number}"))
    assert fault.startswith("shapes[1].radius_mm: got")
    assert fault.endswith("expected a finite number")


def test_faults_speak_no_jargon_of_the_checker():
    text = GOOD.replace("last = 3", 'last = "3"\nx = 1').replace('"box"', '"cube"').replace("= 2\n", "= -1\n")
    listing = "\n".join(faults_of(text))
    for word in (
        "Input should",
        "tag",
        "union",
        "discriminator",
        "validation",
        "type=",
        "Value error",
        ".circle",
        ".box",
    ):
        assert word not in listing


def test_what_is_no_file_no_text_or_no_toml_is_one_fault(tmp_path: Path):
    for name, content in (("absent.toml", None), ("latin.toml", b'title = "\xe9"'), ("broken.toml", b"title = ")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, Drawing)
        assert len(caught.value.faults) == 1
        assert str(tmp_path / name) in str(caught.value)


def test_an_editor_may_start_the_file_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(tmp_path / "bom.toml", Drawing) == parse(GOOD, Drawing, source="")


def test_the_error_counts_its_faults():
    with pytest.raises(ConfigError, match=r"drawing\.toml: 1 fault\n  - last: missing"):
        parse(GOOD.replace("last = 3", ""), Drawing, source="drawing.toml")


@given(st.permutations(["title = 't'", "first = 2", "last = 3", "shapes = [{ kind = 'circle', radius_mm = 1 }]"]))
def test_the_digest_does_not_depend_on_the_order_of_keys(lines: list[str]):
    expected = parse("first=2\nlast=3\ntitle='t'\nshapes=[{radius_mm=1.0,kind='circle'}]", Drawing, source="")
    assert digest(parse("\n".join(lines), Drawing, source="")) == digest(expected)


def test_a_default_written_out_gives_the_same_digest():
    assert digest(parse(GOOD, Drawing, source="")) == digest(parse("first = 1\n" + GOOD, Drawing, source=""))


def test_the_digest_is_the_sha256_of_canonical_json():
    circle = Circle(kind="circle", radius_mm=2)
    assert digest(circle) == hashlib.sha256(b'{"kind":"circle","radius_mm":2.0}').hexdigest()

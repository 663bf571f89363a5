"""The table of threats and the tests that hold it, compared."""

from __future__ import annotations

import re

from tests.house.source import ROOT, Module, module_from_text, modules

ROW = re.compile(r"^\| (T\d\d) \|(.*)\|$", re.MULTILINE)
NAME = re.compile(r"\bdef test(_\w+)")
IN_NAME = re.compile(r"_[tT](\d\d)(?=_|$)")
IN_CASE = re.compile(r"""(?<=["'])T(\d\d) """)


def threats_named(module: Module) -> set[str]:
    """Ids in the names of a module's tests, and in the names that it gives to cases.

    Read from the text: the syntax trees of all tests take seconds.
    """
    numbers = {number for name in NAME.findall(module.text) for number in IN_NAME.findall(name)}
    return {f"T{number}" for number in numbers | set(IN_CASE.findall(module.text))}


def table() -> dict[str, str]:
    """The rows of docs/threats.md by id."""
    rows = ROW.findall((ROOT / "docs" / "threats.md").read_text())
    assert len(rows) == len({id for id, _ in rows}), "an id stands twice"
    return dict(rows)


def test_the_rows_are_numbered_without_a_gap() -> None:
    assert list(table()) == [f"T{number:02}" for number in range(1, len(table()) + 1)]


def test_every_row_has_a_test_unless_it_is_marked_and_no_marked_row_has_one() -> None:
    tested = {id for module in modules("tests") for id in threats_named(module)}
    rows = table()
    marked = {id for id, text in rows.items() if "*not yet*" in text}
    assert sorted(tested - set(rows)) == [], "tests name threats that the table does not have"
    assert sorted(set(rows) - tested - marked) == [], "no test carries these ids"
    assert sorted(marked & tested) == [], "these have tests now: take the mark off, or give the test another name"


def test_ids_are_found_where_they_are_given() -> None:
    # In halves, so that this file names none of them.
    cases, names = 'CASES = {"T' + '25 type 0": 1, "on T26": 2}', ("_t34_T35_x", "_a_t36")
    text = "\n".join((cases, *(f"async def test{name}(): ..." for name in names)))
    assert threats_named(module_from_text("m", text)) == {"T25", "T34", "T35", "T36"}

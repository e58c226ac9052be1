"""Comparisons and tables: who is held against whom, and the words for each outcome."""

from __future__ import annotations

import re

import pytest
from synthetic_run import make_one as one
from synthetic_run import make_records

from echelon.report import markdown_table, summary
from echelon.report.compare import compare, headline, interval, notes, number, place
from echelon.types import EchelonError


def test_equal_compute_is_the_best_flat_setting_that_is_cheap_enough() -> None:
    records = [
        one("hierarchical", 240, 1.0),
        one("hierarchical", 270, 9.0, "a"),
        one("flat", 100, 0.5, "s"),
        one("flat", 140, 1.09, "m"),
        one("flat", 150, 1.11, "l"),
        one("flat", 150, 5.0, "a"),
    ]
    (found,) = compare(records)
    assert found.hierarchical is not None
    assert found.hierarchical.setting == "default"
    assert found.equal is not None
    assert (found.equal.setting, found.equal_is_dearer) == ("m", False)
    assert found.best is not None
    assert found.best.setting == "l"  # of equals, the cheapest


def test_equal_compute_may_be_dearer_and_says_so() -> None:
    records = [one("hierarchical", 240, 1.0), one("flat", 200, 4.0, "a"), one("flat", 90, 2.0, "b")]
    (found,) = compare(records)
    assert found.equal is not None
    assert (found.equal.setting, found.equal_is_dearer) == ("b", True)
    assert "at its cheapest, with 2 times the compute, reaches 30%" in headline([found])
    assert any("No flat setting was as cheap" in note for note in notes([found]))
    text = markdown_table(records)
    assert "30% [25–36] · 2.00 \\*" in text
    assert "worst to best setting: flat 30% to 67% in 2 settings of 2.00 to 4.00 TFLOPs." in text
    assert "* no flat setting" in summary(records)


def test_words_never_call_a_dearer_setting_equal() -> None:
    for successes in (100, 240, 290):
        records = [
            *(one("hierarchical", 240, 1.0, split=s) for s in ("1-4", "9+")),
            *(one("flat", successes, 2.0, split=s) for s in ("1-4", "9+")),
        ]
        found = compare(records)
        said = [headline(found), *notes(found)]
        claims = [text for text in said if not text.startswith("No flat setting was as cheap")]
        assert not re.search("same compute|equal compute", " ".join(claims))
        assert "with 2 times the compute" in said[0]
        assert any(text.startswith("At flat's cheapest, ") for text in said)


def test_without_a_default_the_first_setting_is_the_main_one() -> None:
    (found,) = compare([one("hierarchical", 9, 1.0, "b"), one("hierarchical", 8, 1.0, "a")])
    assert found.hierarchical is not None
    assert found.hierarchical.setting == "a"


@pytest.mark.parametrize(
    ("hierarchical", "flat", "best", "expected"),
    [
        (240, 120, None, "reaches 80% of the goals 9+ cells away; flat planning with the same"),
        (240, 120, None, "no flat setting that was tried reaches more"),
        (240, 120, 150, "flat planning's best, 50% with 5 times the compute, is still below it"),
        (240, 120, 238, "best is 79%, as good within chance, with 5 times the compute"),
        (240, 120, 280, "while flat planning's best, with 5 times the compute, reaches more: 93%"),
        (
            240,
            236,
            None,
            "(80%) and flat planning with the same compute (79%) cannot be told apart",
        ),
        (150, 240, None, "is better here: flat planning with the same compute reaches 80%"),
    ],
)
def test_headline(hierarchical: int, flat: int, best: int | None, expected: str) -> None:
    records = [one("hierarchical", hierarchical, 1.0), one("flat", flat, 1.0)]
    if best is not None:
        records.append(one("flat", best, 5.0, "large"))
    answer = headline(compare(records))
    assert expected in answer
    assert answer.endswith(".")
    assert answer.count(". ") == 0


def test_headline_without_anything_to_compare() -> None:
    assert "no flat planner was tried" in headline(compare([one("hierarchical", 9, 1.0)]))
    assert "hierarchical planning was not tried" in headline(compare([one("flat", 9, 1.0)]))
    assert "Neither" in headline(compare([one("control:random", 9, 0.0)]))


def test_notes_own_up() -> None:
    records = [
        *(one("hierarchical", 240, 1.0, seed=s) for s in range(3)),
        *(one("flat", 120, 1.0, seed=s) for s in range(3)),
        *(one("control:flat-same-cost", 239, 0.5, seed=s) for s in range(3)),
        *(one("hierarchical", 240, 1.0, seed=s, split="1-4") for s in range(3)),
        *(one("flat", 240, 1.0, seed=s, split="1-4") for s in range(3)),
        *(one("flat", 290, 3.0, "large", seed=s, split="1-4") for s in range(3)),
    ]
    said = "\n".join(notes(compare(records)))
    assert "“flat-same-cost” does as well within chance: 80%" in said
    assert "with 0.5 times the compute" in said
    assert "flat planning is as good within chance on goals 1–4 cells away" in said
    assert "at its best reaches more on goals 1–4 cells away (97% with 3 times" in said
    assert "Preliminary" not in said
    thin_evidence = [r for r in records if r.seed < 2]
    assert "Preliminary: some numbers rest on 600 trials and 2 model seeds" in "\n".join(
        notes(compare(thin_evidence))
    )


def test_records_that_make_no_report() -> None:
    with pytest.raises(EchelonError, match="empty"):
        compare([])
    with pytest.raises(EchelonError, match="one task, not a, b"):
        compare([one("flat", 1, 1.0, task="a"), one("flat", 1, 1.0, task="b")])


def test_words() -> None:
    assert [number(v) for v in (0, 0.00001234, 0.0123, 1.5, 12.34, 12345)] == [
        *("0", "0.000012", "0.0123", "1.50", "12.3", "12,345"),
    ]
    assert place("1-1") == "1–1 cell away"
    assert place("5-8") == "5–8 cells away"
    assert place("held-out-layouts") == "in mazes never trained in"
    assert place("far") == "(far)"


# ---- tables


def test_tables_are_rectangular_and_hold_the_pooled_numbers() -> None:
    records = make_records()
    rows = [line for line in markdown_table(records).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + 4
    far = compare(records)[2].hierarchical
    assert far is not None
    cell = f"{100 * far.rate:.0f}% [{interval(far)}]"
    assert cell in rows[4]
    assert cell in summary(records)

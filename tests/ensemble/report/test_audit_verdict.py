"""An audit that fails silences what it was to support, and p-values say what they cover."""

import math

import pytest

from ensemble.report import audit_verdict

EXACT = {"threshold": 0.05, "smallest_p": 0.05, "units": "sources"}


def audited(spearman, error):
    return {**EXACT, "audit": {"spearman": spearman, "relative_error": error}}


@pytest.mark.parametrize(
    ("spearman", "error"), [(0.8, 0.3), (0.99, 0.02), (1.0, 0.0), (0.9, 0.3)]
)
def test_a_good_audit_is_no_objection(spearman, error):
    assert audit_verdict.objection(audited(spearman, error)) == ""


@pytest.mark.parametrize(
    ("spearman", "error"),
    [
        (-0.19, 0.84),
        (0.7999, 0.1),
        (0.95, 0.31),
        (math.nan, 0.1),
        (0.95, math.nan),
        (0.95, math.inf),
    ],
)
def test_a_bad_audit_is_one_with_its_numbers_and_a_remedy(spearman, error):
    said = audit_verdict.objection(audited(spearman, error))
    assert f"correlate with Spearman {spearman:.2f} (at least 0.8 is needed)" in said
    assert "(at most 30 %)" in said
    assert "Nothing is concluded" in said
    assert "--method exact" in said


def test_an_audit_of_too_few_units_supports_nothing():
    said = audit_verdict.objection({**EXACT, "audit": {"n_audit": 2}})
    assert "too few were recomputed exactly" in said
    assert "--method exact" in said


def test_exact_displacements_beside_poor_placebos_are_told_apart():
    said = audit_verdict.objection({**audited(0.5, 0.1), "all_exact": True})
    assert said.startswith("Every displacement is exact, but the placebos")
    assert "correlate with Spearman 0.50" in said
    few = audit_verdict.objection({**EXACT, "all_exact": True, "audit": {"n_audit": 2}})
    assert few.startswith("Every displacement is exact, but the placebos")
    assert audit_verdict.objection({**audited(0.9, 0.1), "all_exact": True}) == ""


def test_exact_tables_need_no_audit():
    assert audit_verdict.objection(EXACT) == ""


def test_several_pictures_are_several_tests():
    said = audit_verdict.coverage(EXACT, 8)
    assert "for the number of sources, for one picture, not for the 8 pictures" in said
    assert "up to 0.4 of the 8 pictures would be expected to show one" in said
    assert audit_verdict.coverage(EXACT, 1) == (
        "Each p is corrected for the number of sources, for one picture."
    )
    groups = audit_verdict.coverage({**EXACT, "units": "groups"}, 8)
    assert "if no group mattered" in groups


def test_a_p_that_cannot_reach_the_threshold_lets_nothing_through():
    assert audit_verdict.by_chance({**EXACT, "smallest_p": 0.086}, 8) == 0
    assert audit_verdict.by_chance(EXACT, 8) == pytest.approx(0.4)


def test_what_p_promises_is_on_record_or_said_to_be_less():
    assert (
        audit_verdict.promise({**EXACT, "p_sentence": "It promises."}) == "It promises."
    )
    assert "against placebos alone" in audit_verdict.promise(EXACT)

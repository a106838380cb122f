"""TRAK and its kin against their formulas, with whole gradients, in float64."""

import pytest

from ensemble.scorers.gradients.per_example import OUTPUTS
from ensemble.scorers.methods.park2023trak import (
    DTrak,
    RelativeInfluence,
    RenormalisedInfluence,
    Trak,
)
from splits.errors import BadInput
from tests.ensemble.scorers import references, tiny_context
from tests.ensemble.scorers.references import (
    DAMPING,
    agree,
    expected,
    norms,
    trak,
    whole,
)


def test_trak_is_its_formula(tmp_path):
    context = tiny_context.context(tmp_path)
    agree(Trak(whole(), DAMPING).score(context), expected(context, trak))


@pytest.mark.parametrize("output", sorted(set(OUTPUTS) - {"loss"}))
def test_dtrak_is_trak_with_another_output(tmp_path, output):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    found = DTrak(whole(output=output), DAMPING).score(context)
    agree(found, expected(context, trak, output))


def test_relative_influence_is_divided_by_the_step_of_the_weights(tmp_path):
    context = tiny_context.context(tmp_path)

    def formula(train, queries):
        steps = norms(references.inverse_kernel(train, DAMPING)(train))
        return trak(train, queries) / steps

    found = RelativeInfluence(whole(), DAMPING).score(context)
    agree(found, expected(context, formula))


def test_renormalised_influence_is_divided_by_the_gradients_length(tmp_path):
    context = tiny_context.context(tmp_path)
    wanted = expected(
        context, lambda train, queries: trak(train, queries) / norms(train)
    )
    agree(RenormalisedInfluence(whole(), DAMPING).score(context), wanted)


def test_dtrak_with_the_loss_is_refused():
    with pytest.raises(BadInput, match="is TRAK"):
        DTrak(whole(output="loss"))

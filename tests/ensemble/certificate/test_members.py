"""What members saw, how they began, and what they share."""

import shutil

from ensemble.certificate import ablated, members
from ensemble.certificate.subject import first_few


def test_a_sentence_is_only_said_of_members_that_were_looked_at(run, looked_at):
    """Without members, nothing is said to hold of them."""
    shutil.rmtree(run.members)
    subject = looked_at(run)
    records = [*members.records(subject)]
    assert [one.holds for one in records] == [False] * 4
    for part in (members.exposure, members.starts):
        assert [*part(subject)] == []


def test_another_beginning_is_found(run, looked_at, reseal):
    (found,) = members.starts(looked_at(run))
    assert found.holds
    assert (
        "4 members have weights of their own, trained from random ones, the same"
        in (found.line)
    )
    reseal(run, 3, weights_seed=7)
    (found,) = members.starts(looked_at(run))
    assert found.holds is False
    assert "member 3 began from the random weights of seed 7" in found.line
    reseal(run, 3, weights_seed=None)


def test_a_beginning_that_is_not_on_record_is_said_so(run, looked_at):
    subject = looked_at(run)
    for member in subject.members:
        member.record.pop("weights_seed")
    (found,) = members.starts(subject)
    assert found.holds is None
    assert "Not recorded: from which random weights members 0, 1, 2, 3" in found.line


def test_sources_are_spoken_of_by_number_and_name(whole, looked_at):
    subject = looked_at(whole, [0, 1])
    (found,) = ablated.ablated(subject)
    saw = subject.plan.codes.bits[[0, 1]].any(axis=0)
    assert found.holds
    assert f"of 4 members that vote, {saw.sum()} saw sources 0" in found.line
    assert f"{4 - saw.sum()} members ran" in found.line


def test_sources_without_which_nobody_is_left_are_no_traceback(whole, looked_at):
    (found,) = ablated.ablated(looked_at(whole, range(8)))
    assert found.holds is False
    assert "without them nobody is left" in found.line
    assert "--plan --remove" in found.remedy


def test_nobody_asked_nothing_said(whole, looked_at):
    assert [*ablated.ablated(looked_at(whole))] == []


def test_many_numbers_are_counted():
    assert first_few([1, 2, 3]) == "1, 2, 3"
    assert first_few(list(range(14))).endswith("10, 11 and 2 more")

"""What was verified is on record, and holds of those files and no others."""

import pytest

from ensemble.report import verification
from ensemble.report.verification import Reason, Verification
from ensemble.run import manifest
from splits.errors import BadInput
from tests import finished


@pytest.fixture
def run(tmp_path):
    return finished.trained(tmp_path / "run", finished.images())


def reason(*sources, holds=False):
    return Reason(f"(a) about {sources}", holds, "Mend it.", sources)


def recorded(run, *findings):
    verification.record(run, verification.digest(run), findings)
    return verification.read(run)


def test_a_run_that_nobody_verified_is_unchecked(run):
    found = verification.read(run)
    assert found.state == "unchecked"
    assert not found.proven
    assert found.said("verify it") == [
        "The certificate has not been checked, so nothing here is known to be exact. "
        "Check it: verify it"
    ]


def test_what_holds_is_on_record_with_its_time_and_digest(run):
    found = recorded(run, reason(holds=True))
    assert found.state == "holds"
    assert found.proven
    assert found.about == verification.digest(run)
    (said,) = found.said("")
    assert said.startswith(f"The certificate holds (checked at {found.time}, of files")
    assert found.about[:12] in said


def test_what_does_not_hold_says_why_and_what_to_do(run):
    found = recorded(run, reason(holds=True), reason(), reason(3, 5))
    assert found.state == "fails"
    assert not found.proven
    first, *others = found.said("")
    assert first.startswith("The certificate does not hold (checked")
    assert others == ["(a) about ()", "(a) about (3, 5)", "Mend it."]


def test_only_the_first_of_many_reasons_are_said(run):
    found = recorded(run, *(reason(one, 11) for one in range(8)))
    assert found.said("")[6:] == ["And 3 more such findings.", "Mend it."]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run.member(1) / "member.json").write_text("{}"),
        lambda run: (run.member(9)).mkdir() or (run.member(9) / "x").touch(),
        lambda run: run.codes.write_bytes(b"x"),
        lambda run: (run.path / "removals.jsonl").touch(),
        lambda run: (run.path / "model_index.json").touch(),
        lambda run: run.reference.mkdir() or (run.reference / "w").touch(),
        lambda run: (run.path / "config.yaml").write_text("run: x\n"),
    ],
)
def test_a_folder_that_changed_since_is_not_vouched_for(run, change):
    recorded(run)
    change(run)
    found = verification.read(run)
    assert found.state == "changed"
    assert not found.proven
    assert found.against([0]) == []
    assert "since this folder was changed" in found.said("")[0]


def test_queries_tables_and_stages_change_nothing_of_it(run):
    recorded(run)
    finished.ablated(finished.asked(run, finished.images()))
    with manifest.stage(run, "generate demo"):
        pass
    (run.member(1) / ".lock").touch()
    assert verification.read(run).state == "holds"


def test_a_change_while_it_was_verified_is_noticed(run):
    about = verification.digest(run)
    run.codes.write_bytes(b"x")
    verification.record(run, about, [])
    assert verification.read(run).state == "changed"


def test_a_damaged_record_is_named(run):
    recorded(run)
    path = run.path / verification.FILE
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(BadInput, match=r"certificate\.json is damaged"):
        verification.read(run)


def test_what_two_sources_share_is_gone_if_both_are():
    found = Verification("fails", "now", "0", (reason(3, 5),))
    assert found.proven
    assert found.against([3]) == found.against([5, 7]) == [reason(3, 5)]
    assert found.against([4]) == found.against([3, 5]) == found.against([1, 3, 5]) == []


def test_what_is_about_one_source_goes_with_it_in_any_company():
    found = Verification("holds", "now", "0", (reason(3, holds=None),))
    assert found.against([3]) == found.against([3, 4]) == list(found.reasons)
    assert found.against([4]) == []


def test_what_is_about_all_sources_concerns_each():
    found = Verification("fails", "now", "0", (reason(),))
    assert not found.proven
    assert found.against([0]) == found.against([1, 2]) == [reason()]


def test_notes_without_a_source_concern_nobody(run):
    found = recorded(run, reason(holds=None), reason(2, holds=None))
    assert found.state == "holds"
    assert found.reasons == (reason(2, holds=None),)
    assert found.said("")[1:] == ["(a) about (2,)"]

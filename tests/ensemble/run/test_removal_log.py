"""The log of removals is arithmetic on a code book, and every change of it is found."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from ensemble.run import config_file, files, folder, removal_log, voters
from ensemble.run.manifest import start_manifest
from splits.codes import CodeBook
from splits.errors import BadInput

BITS = np.array(
    [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=bool
)


def trained_on(run, member, split, weights=None):
    """Write the record of a member that was trained on that split."""
    facts = {
        "split_digest": CodeBook(split[:, None]).split_digest(0),
        "weights_sha256": weights or f"{member:064x}",
    }
    files.write_json(run.member(member) / "member.json", facts)


@pytest.fixture
def run(tmp_path):
    """Five sources and four members, all trained as the code book says."""
    run = folder.create(config_file.from_dict({"run": str(tmp_path / "run")}))
    files.write_array(run.codes, BITS)
    digest = CodeBook(BITS).digest()
    start_manifest(run, {"code_book_digest": digest, "n_members": 4})
    for member in range(4):
        trained_on(run, member, BITS[:, member])
    return run


def remove(run, *sources, reason="asked"):
    return removal_log.append(
        run,
        {
            "reason": reason,
            "sources": list(sources),
            "names": [f"name {source}" for source in sources],
            "images": {},
            "label_names": [],
            "data_fingerprint": "f" * 64,
        },
    )


def test_without_requests_everybody_votes_by_the_book_that_was_drawn(run):
    assert removal_log.requests(run.path) == []
    assert voters.silenced_members(run.path) == []
    assert voters.voting_members(run.path, 4) == [0, 1, 2, 3]
    assert voters.voters_code_book(run.path).digest() == CodeBook(BITS).digest()


def test_a_folder_that_is_no_run_has_no_silence(tmp_path):
    assert voters.silenced_members(tmp_path) == []
    voters.require_voting(tmp_path, [], [0, 1])


def test_exactly_those_that_saw_a_removed_source_fall_silent(run):
    remove(run, 3)
    assert voters.silenced_members(run.path) == np.flatnonzero(BITS[3]).tolist()
    remove(run, 1)
    assert voters.silenced_members(run.path) == [0, 1, 3]
    assert removal_log.removed(run.path) == [1, 3]


def test_the_book_of_those_who_vote_has_their_columns_and_nothing_of_the_removed(run):
    remove(run, 3)
    book = voters.voters_code_book(run.path)
    assert np.array_equal(book.bits, BITS[:, [1, 2, 3]])
    assert not book.bits[3].any()


def test_a_member_votes_again_once_its_record_says_that_it_never_saw_the_source(run):
    remove(run, 0)
    assert voters.silenced_members(run.path) == [0, 3]
    left = voters.remaining_bits(BITS, [0])
    trained_on(run, 3, left[:, 3])
    assert voters.silenced_members(run.path) == [0]
    trained_on(run, 0, left[:, 0])
    assert voters.silenced_members(run.path) == []
    assert np.array_equal(voters.voters_code_book(run.path).bits, left)


def test_a_member_that_is_not_there_is_not_taken_for_one_that_may_vote(run):
    remove(run, 3)
    shutil.rmtree(run.member(0))
    assert voters.silenced_members(run.path) == [0]


def test_a_record_that_is_lost_silences_nobody(run):
    remove(run, 3)
    (run.member(0) / "member.json").unlink()
    with pytest.raises(BadInput, match=r"000/member\.json is missing"):
        voters.silenced_members(run.path)


def test_a_damaged_code_book_decides_nothing(run):
    remove(run, 3)
    files.write_array(run.codes, ~BITS)
    with pytest.raises(BadInput, match=r"codes\.npy is damaged: .*manifest\.json"):
        voters.silenced_members(run.path)


def test_any_reason_may_be_given(run):
    remove(run, 3, reason="line\u2028separators\nand \x1c others")
    remove(run, 1)
    assert removal_log.removed(run.path) == [1, 3]


def test_words_in_any_encoding_are_kept_as_they_came(run):
    """Bytes that are no UTF-8 reach Python as lone surrogates."""
    reason = b"caf\xe9, caf\xc3\xa9, \\udce9".decode("utf-8", "surrogateescape")
    remove(run, 3, reason=reason)
    remove(run, 1)
    first, _ = removal_log.requests(run.path)
    assert first.reason == reason
    text = (run.path / removal_log.LOG).read_bytes().decode()
    assert r"caf\udce9, café" in text


def test_a_member_with_nothing_left_keeps_its_split_and_is_silent_for_good(run):
    remove(run, 2)
    assert voters.retired_members(run.path) == [2]
    assert np.array_equal(voters.remaining_bits(BITS, [2])[:, 2], BITS[:, 2])
    assert voters.silenced_members(run.path) == [2]
    assert voters.voters_code_book(run.path).n_members == 3


def test_silenced_members_are_refused_by_number(run):
    remove(run, 3)
    silent = voters.silenced_members(run.path)
    voters.require_voting(run.path, silent, [1, 2])
    with pytest.raises(BadInput, match="Member 0 of .* is silenced: .*--repair"):
        voters.require_voting(run.path, silent, [1, 0])


def test_an_ensemble_in_which_nobody_may_vote_is_refused(run):
    remove(run, 0, 1, 2)
    with pytest.raises(BadInput, match="No member of .* is left to vote"):
        voters.voters_code_book(run.path)


def test_results_of_other_members_are_refused(run):
    def require(record):
        voters.Membership.read(run.path).require_made(run.queries("demo"), record)

    before = voters.Membership.read(run.path).facts()
    old = {"code_book_digest": before["code_book_digest"]}
    for record in (before, old, {}):
        require(record)
    remove(run, 3)
    for record in (before, old, {}):
        with pytest.raises(BadInput, match="queries/demo is from before a removal"):
            require(record)
    now = voters.Membership.read(run.path).facts()
    require(now)
    trained_on(run, 0, voters.remaining_bits(BITS, [3])[:, 0])
    with pytest.raises(BadInput, match="or a repair"):
        require(now)


def test_results_by_other_weights_are_refused_with_both_sides_named(run):
    before = voters.Membership.read(run.path)
    trained_on(run, 2, BITS[:, 2], weights="ab" * 32)
    now = voters.Membership.read(run.path)
    with pytest.raises(
        BadInput, match="queries/demo was made by other members"
    ) as told:
        now.require_made(run.queries("demo"), before.facts())
    for known in (before, now):
        assert known.weights_digest in str(told.value)
    # What version 0.1 made does not say by which weights.
    now.require_made(run.queries("demo"), {"code_book_digest": now.codes.digest()})
    # Nor is anything held against it while a record is damaged.
    (run.member(2) / "member.json").write_text("{")
    damaged = voters.Membership.read(run.path)
    damaged.require_made(run.queries("demo"), before.facts())


def test_the_log_only_grows_and_each_line_seals_the_one_before(run):
    remove(run, 3, reason="a letter from Eve – 12 May")
    before = (run.path / removal_log.LOG).read_text()
    remove(run, 1)
    after = (run.path / removal_log.LOG).read_text()
    assert after.startswith(before)
    first, second = removal_log.requests(run.path)
    assert (first.number, first.previous, first.names) == (1, "", ["name 3"])
    assert first.reason == "a letter from Eve – 12 May"
    assert second.previous == removal_log.digest_of(before.rstrip("\n"))


def cut(lines):
    return lines[:-1]


def emptied(lines):
    return []


def edited_first(lines):
    return [lines[0].replace("asked", "nobody asked"), *lines[1:]]


def edited_last(lines):
    return [*lines[:-1], lines[-1].replace("asked", "nobody asked")]


def swapped(lines):
    return lines[::-1]


def torn(lines):
    return [*lines[:-1], lines[-1][:20]]


def renamed_key(lines):
    return [*lines[:-1], json.dumps({**json.loads(lines[-1]), "more": 1})]


@pytest.mark.parametrize(
    "damage", [cut, emptied, edited_first, edited_last, swapped, torn, renamed_key]
)
def test_a_log_that_was_cut_or_edited_is_refused(run, damage):
    remove(run, 3)
    remove(run, 1)
    path = run.path / removal_log.LOG
    lines = damage(path.read_text().splitlines())
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(BadInput, match="was cut, edited or damaged: line"):
        voters.silenced_members(run.path)


def test_a_log_that_was_deleted_is_missed(run):
    remove(run, 3)
    (run.path / removal_log.LOG).unlink()
    with pytest.raises(BadInput, match="was cut, edited or damaged: line 1"):
        removal_log.requests(run.path)


def test_a_request_counts_even_if_the_process_died_before_the_manifest_knew(
    run, monkeypatch
):
    remove(run, 3)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove(run, 4)
    assert removal_log.removed(run.path) == [3, 4]
    remove(run, 1)
    assert removal_log.removed(run.path) == [1, 3, 4]


def test_a_log_that_is_no_text_is_refused(run):
    remove(run, 3)
    path = run.path / removal_log.LOG
    path.write_bytes(path.read_bytes().replace(b"asked", b"ask\xffd"))
    with pytest.raises(BadInput, match="was cut, edited or damaged: line 1"):
        voters.silenced_members(run.path)


def test_a_membership_is_what_the_folder_says_of_codes_members_and_weights(run):
    remove(run, 3)
    known = voters.Membership.read(run.path)
    assert known.members == (1, 2, 3)
    assert known.silenced == (0,)
    assert known.removed == (3,)
    assert np.array_equal(known.codes.bits, voters.voters_code_book(run.path).bits)
    assert known.weights == {member: f"{member:064x}" for member in (1, 2, 3)}
    some = known.only([3, 1])
    assert np.array_equal(some.codes.bits, known.codes.bits[:, [2, 0]])
    assert list(some.weights) == [3, 1]


def test_a_membership_has_another_digest_with_other_weights_members_or_codes(run):
    def digest():
        return voters.Membership.read(run.path).digest()

    before = digest()
    assert digest() == before
    assert voters.Membership.read(run.path).only([0, 1]).digest() != before
    trained_on(run, 2, BITS[:, 2], weights="ab" * 32)
    other_weights = digest()
    assert other_weights != before
    # Member 0 falls silent, and later knows nothing of the source.
    remove(run, 3)
    silenced = digest()
    trained_on(run, 0, voters.remaining_bits(BITS, [3])[:, 0])
    assert len({before, other_weights, silenced, digest()}) == 4


def test_a_membership_tells_of_damaged_weights_only_that_it_does_not_know_them(run):
    (run.member(1) / "member.json").write_text("{")
    shutil.rmtree(run.member(2))
    known = voters.Membership.read(run.path)
    assert known.members == (0, 1, 2, 3)
    assert list(known.weights) == [0, 3]


def test_a_request_that_comes_while_records_are_read_is_part_of_the_membership(
    run, monkeypatch
):
    record, asked = voters._record, []

    def slow(*arguments, **options):
        if not asked:
            asked.append(remove(run, 3))
        return record(*arguments, **options)

    monkeypatch.setattr(voters, "_record", slow)
    assert voters.Membership.read(run.path).members == (1, 2, 3)


def test_a_log_of_version_0_1_knows_no_twins(run):
    """It did not note which pictures of removed sources stay with others."""
    remove(run, 3)
    log = run.path / removal_log.LOG
    line = json.loads(log.read_text())
    del line["twins"]
    text = json.dumps(line)
    log.write_text(f"{text}\n")
    manifest = files.read_json(run.manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest["stages"]["remove 1"]["line_sha256"] = digest
    files.write_json(run.manifest, manifest)
    (request,) = removal_log.requests(run.path)
    assert (request.sources, request.twins) == ([3], [])

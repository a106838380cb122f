"""A report that was made before a removal says so itself."""

import pytest

from ensemble.report import outdated, report
from ensemble.run import files, removal_log
from tests import finished


@pytest.fixture
def run(tmp_path):
    return finished.run(tmp_path / "run", finished.images())


def remove(run, source, name):
    removal_log.append(
        run,
        {
            "sources": [source],
            "names": [name],
            "reason": "a letter",
            "images": {},
            "label_names": [],
            "data_fingerprint": "",
        },
    )


def page(run, n_removals):
    text = (
        f'<meta name="removals" content="{n_removals}"><body>\n<p>the page</p></body>'
    )
    files.write_text(run.path / outdated.REPORT, text)


def text(run):
    return (run.path / outdated.REPORT).read_text()


def test_without_a_report_or_a_removal_there_is_nothing_to_mark(run):
    assert outdated.mark(run) is None
    page(run, 0)
    before = text(run)
    assert outdated.mark(run) is None
    assert text(run) == before
    (run.path / outdated.REPORT).unlink()
    remove(run, 3, "3")
    assert outdated.mark(run) is None
    assert not (run.path / outdated.REPORT).exists()


def test_a_page_from_before_a_removal_is_marked_once(run):
    page(run, 0)
    remove(run, 3, "<b>Eve</b>")
    assert outdated.mark(run) == run.path / outdated.REPORT
    said = text(run)
    assert '<body>\n<p id="outdated" role="alert"' in said
    assert "source 3 (&lt;b&gt;Eve&lt;/b&gt;) (request 1 of 20" in said
    assert "<b>Eve" not in said
    assert "<p>the page</p></body>" in said
    outdated.mark(run)
    assert text(run) == said


def test_the_next_removal_is_added(run):
    page(run, 0)
    remove(run, 3, "3")
    outdated.mark(run)
    remove(run, 5, "Ann")
    outdated.mark(run)
    assert text(run).count('id="outdated"') == 1
    assert "removed: source 3 (request 1 of" in text(run)
    assert "; source 5 (Ann) (request 2 of" in text(run)


def test_a_page_that_knew_of_it_stays(run):
    remove(run, 3, "3")
    page(run, 1)
    before = text(run)
    assert outdated.mark(run) is None
    assert text(run) == before


@pytest.mark.parametrize(
    "old", ["<html><body><p>0.1</p></body></html>", "no page at all", ""]
)
def test_pages_of_before_and_what_is_no_page_are_marked(run, old):
    files.write_text(run.path / outdated.REPORT, old)
    remove(run, 3, "3")
    assert outdated.mark(run)
    assert "Outdated. After this page was made" in text(run)
    assert old.removeprefix("<html><body>") in text(run)


def test_a_new_report_knows_of_no_removal(run):
    written = report.write(run, "demo", finished.images())
    assert '<meta name="removals" content="0">' in written.read_text()
    remove(run, 3, "3")
    assert outdated.mark(run) == written


def test_a_removal_while_the_report_is_written_marks_it(run, monkeypatch):
    curves = report._curves

    def removed_meanwhile(members):
        remove(run, 3, "3")
        return curves(members)

    monkeypatch.setattr(report, "_curves", removed_meanwhile)
    written = report.write(run, "demo", finished.images())
    assert "Outdated. After this page was made" in written.read_text()

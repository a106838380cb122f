"""The page says what the tables say, to everybody, from one file."""

import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ensemble.data.datasets import TrainingImages
from ensemble.report import report, verification
from ensemble.report.verification import Reason
from ensemble.run import files, records
from ensemble.run.manifest import note_stage
from splits.errors import BadInput
from tests import finished

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


class Page(HTMLParser):
    """Elements of a page, in order, and the text inside of each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._spans: list[list[int]] = []
        self._open: list[int] = []
        self.feed(self.source)
        assert not self._open, "an element was never closed"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._spans.append([len(self._texts), len(self._texts)])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        element = self._open.pop()
        assert self.elements[element][0] == tag, f"</{tag}> closes another"
        self._spans[element][1] = len(self._texts)

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        """The text of every such element, with a space between all of its parts."""
        return [
            " ".join(" ".join(self._texts[first:last]).split())
            for (name, _), (first, last) in zip(self.elements, self._spans, strict=True)
            if name == tag
        ]

    def text(self, name: str) -> str:
        """The text of the element with this id."""
        names = [attributes.get("id") for _, attributes in self.elements]
        first, last = self._spans[names.index(name)]
        return " ".join(" ".join(self._texts[first:last]).split())


@pytest.fixture(scope="module")
def data() -> TrainingImages:
    return finished.images()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, data: TrainingImages) -> Path:
    run = finished.run(tmp_path_factory.mktemp("runs") / "digits", data)
    table = {
        "title": "Rank correlation",
        "note": "Over 3 queries.",
        "rows": [
            {"method": "trak", "correlation": 0.123456, "best": True},
            {
                "method": "noise",
                "correlation": {"value": -0.5, "low": -0.75, "high": None},
            },
        ],
        "figures": ["curve.svg"],
    }
    files.write_json(run.evaluation / "lds.json", table)
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    files.write_text(run.evaluation / "curve.svg", drawing)
    return report.write(run, "demo", data)


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path)


def test_the_report_is_one_file_in_the_run_folder(path):
    assert path.name == "report.html"
    assert path.parent.name == "digits"


def test_the_summary_counts_members_sources_pictures_and_what_was_found(page):
    assert (
        "6 members, 12 sources, 3 pictures: for 2 of 3 pictures, removing at least one "
        "source changes the picture more than placebo removals do."
    ) in page.texts("header")[0]


def test_headings_start_with_one_h1_and_never_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later - sooner <= 1 for sooner, later in itertools.pairwise(levels))


def test_every_picture_says_what_it_is(page):
    texts = [picture["alt"] for picture in page.all("img")]
    assert all(texts)
    for text in (
        "query 2, full ensemble",
        "query 2 without source 1",
        "query 2, difference that source 1 makes",
        "training image 5, source 5",
    ):
        assert text in texts


def test_nothing_is_fetched_and_nothing_runs(page):
    assert not page.all("script")
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_leads_somewhere_and_no_name_is_used_twice(page):
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [link["href"][1:] for link in page.all("a")]
    targets += [
        attributes["aria-labelledby"]
        for _, attributes in page.elements
        if "aria-labelledby" in attributes
    ]
    assert set(targets) <= set(names)
    assert {"query-0", "query-1", "query-2", "main"} <= set(targets)


def test_the_page_has_landmarks_a_language_and_a_way_past_the_header(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("nav")) == len(page.all("footer")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}


def test_every_table_has_a_caption_scoped_heads_and_a_region_to_scroll_in(page):
    tags = [tag for tag, _ in page.elements]
    for position, (tag, _) in enumerate(page.elements):
        if tag == "table":
            region = page.elements[position - 1][1]
            assert region["role"] == "region"
            assert region["tabindex"] == "0"
            assert region["aria-label"]
            assert tags[position + 1] == "caption"
    assert all("scope" in head for head in page.all("th"))


def test_a_query_without_a_source_above_placebo_is_called_unattributable(page):
    cards = [page.text(f"query-{query}") for query in range(3)]
    assert "Query 0 1 source above placebo" in cards[0]
    assert "Query 1 unattributable" in cards[1]
    assert "No source stands out: if all sources were placebos, some" in cards[1]
    assert "Query 2 2 sources above placebo" in cards[2]
    assert "unattributable" not in cards[0] + cards[2]


def test_a_row_says_displacement_excess_p_value_and_influences(page):
    row = "source 5 image 0005.png label owl 0.900 +0.500 0.012 above placebo"
    assert f"{row} +0.0900 \N{MINUS SIGN}0.0090" in page.text("query-0")


def test_only_p_values_up_to_the_threshold_are_marked(page):
    for query, n_above in enumerate((1, 0, 2)):
        card = page.text(f"query-{query}")
        assert len(re.findall(r"0\.\d{3} above placebo", card)) == n_above


def test_the_figures_describe_themselves(page):
    texts = page.texts("desc")
    assert len(texts) == 4
    assert texts[0].startswith("Displacements of 12 sources, 0.300 to 0.900")
    assert "40 placebos" in texts[0]
    assert texts[3].startswith("Loss of 6 members over 200 steps.")


def test_an_evaluation_of_other_queries_is_refused(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    table = {"identity": {"truth": {"queries_digest": "another"}}, "rows": []}
    files.write_json(run.evaluation / "lds-demo.json", table)
    with pytest.raises(BadInput, match="lds-demo.json was made with another queries_"):
        report.write(run, "demo", data)


def test_tables_of_the_evaluation_are_shown_rounded(page):
    text = page.text("evaluation")
    assert "Rank correlation Over 3 queries." in text
    assert (
        "method correlation best trak 0.1235 yes noise \N{MINUS SIGN}0.5 "
        "[\N{MINUS SIGN}0.75, \N{EN DASH}] \N{EN DASH}"
    ) in text


def test_the_page_says_how_to_make_it_again(page, path):
    text = page.text("again")
    for command in (
        f"python train.py {path.parent}/config.yaml",
        f"python attribute.py {path.parent} generate --name demo --n 3 --seed 40",
        f"python attribute.py {path.parent} ablate --name demo --method exact "
        "--placebos 40",
        f"python attribute.py {path.parent} report --name demo",
    ):
        assert command in text
    manifest = json.loads((path.parent / "manifest.json").read_text())
    for fact in ("created", "data_fingerprint", "code_book_digest"):
        assert manifest[fact] in text
    assert f"numpy {np.__version__}" in text
    assert "queries 40 41 42" in text


def test_the_promises_are_told_in_words(page):
    text = page.text("code-book")
    assert "Each source is seen by 3 of the 6 members." in text
    assert "12 sources down, 6 members across" in text


def test_every_word_of_the_report_is_explained(page):
    text = page.text("words")
    words = "source member votes query ablate placebo displacement excess influence"
    for word in [*words.split(), "p-value", "unattributable", "denoising loss"]:
        assert word in text


def test_the_same_tables_make_the_same_page(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    first = report.write(run, "demo", data).read_bytes()
    assert report.write(run, "demo", data).read_bytes() == first


def test_names_from_the_data_are_text_and_nothing_else(tmp_path):
    plain = finished.images()
    wicked = ("<script>alert(1)</script>", 'a"onload="b', "c\x00\x1b[31m\u202ed\ud800")
    data = TrainingImages(plain.images, plain.labels, wicked, {}, plain.names)
    names = [f"<img src=x onerror=y> & {number}" for number in range(12)]
    run = finished.trained(tmp_path / "<b>run", data, np.arange(12), names)
    finished.ablated(finished.asked(run, data))
    files.write_json(run.evaluation / "x.json", {"title": "<i>", "<u>": "</table>"})
    page = Page(report.write(run, "demo", data))
    assert not page.all("script") + page.all("u")
    assert all("onload" not in attributes for _, attributes in page.elements)
    assert all(image["src"] != "x" for image in page.all("img"))
    (text,) = page.texts("body")
    assert "label <script>alert(1)</script>" in text
    assert "<img src=x onerror=y> & 5" in text
    assert "c\\x00\\x1b[31m\\u202ed\\ud800" in text
    assert "<b>run" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.source)


def test_a_source_of_many_images_shows_the_first_and_their_number(tmp_path):
    data = finished.images(24)
    artists = ["ann", "bob", "cas", "dee"]
    run = finished.trained(tmp_path / "run", data, np.arange(24) % 4, artists, 4)
    finished.ablated(finished.asked(run, data))
    page = Page(report.write(run, "demo", data))
    assert "source 1 bob 3 labels 6 images" in page.text("query-2")
    texts = [picture["alt"] for picture in page.all("img")]
    shown = {text for text in texts if text.endswith(", source 1")}
    assert shown == {f"training image {image}, source 1" for image in (1, 5, 9, 13)}


def test_groups_are_shown_beside_sources_by_their_names(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    groups = {f"label {name}": [*range(n, 12, 3)] for n, name in enumerate("cat")}
    finished.ablated(run, "demo-0123abcd", groups)
    together = {"sources 3, 7": [3, 7]}
    finished.ablated(run, "demo-4567cdef", together, n_top=1)
    page = Page(report.write(run, "demo", data))
    assert (
        "removing at least one of 3 groups changes the picture"
        in page.texts("header")[0]
    )
    assert "removing sources 3, 7 changes the picture" in page.texts("header")[0]
    card = page.text("query-2")
    assert "Source by source 2 sources above placebo" in card
    assert "By group: label c to label t 2 groups above placebo" in card
    assert "label a 4 sources label dog 4 images" in card
    assert "ablate --name demo --method exact --sources 3,7" in page.text("again")


def test_groups_by_a_column_are_made_again_by_that_column(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    names = {f"label {name}": [n] for n, name in enumerate(data.label_names)}
    finished.ablated(run, "demo-0123abcd", names)
    page = Page(report.write(run, "demo", data))
    assert "ablate --name demo --method exact --groups label" in page.text("again")


def test_queries_of_a_similar_name_are_not_mixed_in(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    before = report.write(run, "demo", data).read_text()
    finished.ablated(run, "demo-evening1")
    assert report.write(run, "demo", data).read_text() == before


def test_without_ablations_the_page_shows_pictures_only(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    page = Page(report.write(run, "demo", data))
    assert (
        "6 members, 12 sources, 3 pictures. Nothing has been ablated yet."
        in (page.texts("header")[0])
    )
    names = {attributes.get("id") for _, attributes in page.elements}
    assert not names & {"sources", "audit", "scores", "evaluation"}
    assert "query 2, full ensemble" in [picture["alt"] for picture in page.all("img")]


def test_too_few_placebos_are_said_to_find_nothing(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    finished.ablated(run, n_placebos=0, smallest_p=1.0)
    page = Page(report.write(run, "demo", data))
    assert (
        "With 0 placebos no corrected p-value can be below 1, so nothing"
        in (page.texts("header")[0])
    )
    card = page.text("query-1")
    assert "With 0 placebos no source could have been told from placebo." in card
    assert "and of no placebo." in card


def test_an_audit_and_scores_are_shown_when_they_exist(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    audit = {
        "sentence": "Ten ablations were repeated.",
        "spearman": 0.98765,
        "relative_error": 0.02,
    }
    finished.ablated(run, audit=audit, road_sentence="Road: the short one.")
    files.write_json(run.scores("demo") / "trak.json", {"method": "trak", "seed": 3})
    page = Page(report.write(run, "demo", data))
    assert "Road: the short one. Ten ablations were repeated. spearman 0.9877" in (
        page.text("audit")
    )
    assert "trak fact value method trak seed 3" in page.text("scores")


BAD = {"sentence": "Audit: they differ.", "spearman": -0.19, "relative_error": 0.84}


def test_an_audit_that_fails_silences_what_it_was_to_support(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    finished.ablated(run, "differential", audit=BAD, road_sentence="Road: none.")
    page = Page(report.write(run, "demo", data))
    head = page.texts("header")[0]
    assert "pictures: the removal of every source was approximated. The approx" in head
    assert "Spearman -0.19 (at least 0.8 is needed) and differ by 84 %" in head
    assert "ablate exactly (`--method exact`)" in head
    assert "placebo" not in head
    for query in range(3):
        card = page.text(f"query-{query}")
        assert f"Query {query} approximation too poor to say" in card
        assert "Nothing is concluded from them" in card
        assert "above placebo" not in card


@pytest.mark.parametrize(
    ("groups", "removed"),
    [
        ({"sources 3, 7": [3, 7]}, "The removal of sources 3, 7 was approximated."),
        ({"a": [1], "b": [2]}, "The removal of 2 groups was approximated."),
    ],
)
def test_one_bad_audit_does_not_silence_the_others(tmp_path, data, groups, removed):
    run = finished.run(tmp_path / "run", data)
    finished.ablated(
        run, "demo-differential-0123abcd", groups, 1, audit=BAD, road_sentence=""
    )
    page = Page(report.write(run, "demo", data))
    head = page.texts("header")[0]
    assert "for 2 of 3 pictures, removing at least one source" in head
    assert removed in head


def test_the_page_says_what_its_p_values_cover(page):
    assert "By chance it would be up to 0.15 of them." in page.texts("header")[0]
    assert "not for the 3 pictures: if no source mattered, up to 0.15 of the 3" in (
        page.text("sources")
    )


def test_given_pictures_are_shown_with_their_losses_and_no_displacement(tmp_path, data):
    names = [f"artist {number}" for number in range(12)]
    run = finished.trained(tmp_path / "run", data, np.arange(12), names)
    finished.given(run, data)
    page = Page(report.write(run, "mine", data))
    head = page.texts("header")[0]
    assert "3 pictures. These are given pictures, and no noise leads to them" in head
    assert "Query set mine : given pictures" in page.text("pictures")
    assert "seed" not in page.text("pictures")
    losses = page.text("losses")
    assert "exact for every source; it is not compared with placebos" in losses
    assert "0 11 (artist 11): +0.0110 10 (artist 10): +0.0100" in losses
    assert "generate --name mine" not in page.text("again")
    assert "holds given pictures: keep a copy" in page.text("again")
    texts = [picture["alt"] for picture in page.all("img")]
    assert "query 2, given" in texts


def test_given_pictures_without_a_loss_are_shown_alone(tmp_path, data):
    run = finished.given(finished.trained(tmp_path / "run", data), data)
    shutil.rmtree(run.influence("mine"))
    page = Page(report.write(run, "mine", data))
    assert "losses" not in {attributes.get("id") for _, attributes in page.elements}


def test_what_version_0_1_said_of_given_pictures_is_not_shown(tmp_path, data):
    """It sampled them again from a noise that has nothing to do with them."""
    run = finished.run(tmp_path / "run", data)
    folder = run.queries("demo")
    facts = {**files.read_json(folder / "info.json"), "held_out": True}
    records.write_done_mark(folder, "info.json", facts)
    page = Page(report.write(run, "demo", data))
    assert "removing" not in page.texts("header")[0]
    names = {attributes.get("id") for _, attributes in page.elements}
    assert not names & {"sources", "losses"}


def test_the_time_of_training_is_what_was_spent(page):
    text = page.text("training")
    # Six members of 31.25 s, of which one ends every minute.
    assert "3.1 min of training in all, the members' times added up" in text
    assert "5.5 min by the clock from the first member's beginning" in text
    assert "train 3.1 min 5 MB" in page.text("again")
    assert "train 0.0 s" not in page.text("again")


def test_what_version_0_1_did_not_record_is_said_to_be_so(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    for member in range(6):
        path = run.member(member) / "member.json"
        record = files.read_json(path)
        del record["finished"], record["peak_memory_bytes"]
        files.write_json(path, record)
    note_stage(run, "ablate demo")
    page = Page(report.write(run, "demo", data))
    assert "3.1 min of training in all; when it began and ended was not" in (
        page.text("training")
    )
    assert "ablate demo not recorded not recorded 20" in page.text("again")
    assert "train 3.1 min not recorded 20" in page.text("again")


def verified(run, *findings):
    verification.record(run, verification.digest(run), findings)


def test_a_run_that_nobody_verified_claims_nothing(page):
    head, text = page.texts("header")[0], page.text("sources")
    assert "The certificate has not been checked, so nothing here is known" in head
    assert re.search("Check it: python attribute.py .*digits verify", head)
    assert "whether that is so in this folder has not been checked" in text
    assert "The new picture owes nothing" not in text


def test_the_first_screen_says_that_the_certificate_holds(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    verified(run)
    page = Page(report.write(run, "demo", data))
    assert "The certificate holds (checked at 20" in page.texts("header")[0]
    assert verification.digest(run)[:12] in page.texts("header")[0]
    assert "The new picture owes nothing to that source. But" in page.text("sources")
    assert "see the certificate" not in page.text("sources")


def test_exactness_is_claimed_by_source_where_copies_sit_in_others(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    finished.ablated(run, "demo-0123abcd", {"both": [1, 5], "one": [5, 6]}, n_top=1)
    twin = Reason("(a) 1 and 5 have the same image", False, "Remove both.", (1, 5))
    verified(run, twin, Reason("(b) all is well", True, "", ()))
    page = Page(report.write(run, "demo", data))
    head = page.texts("header")[0]
    assert "The certificate does not hold (checked" in head
    assert "(a) 1 and 5 have the same image Remove both." in head
    assert "all is well" not in head
    text = page.text("sources")
    assert "owes nothing to that source, unless its row says so." in text
    card = page.text("query-0")
    mark = "not exact: see the certificate"
    assert f"source 5 image 0005.png label owl {mark}" in card
    assert f"source 1 image 0001.png label dog {mark}" in card
    assert f"one 2 sources 2 labels 2 images {mark}" in card
    assert f"both 2 sources 2 labels 2 images {mark}" not in card
    assert card.count(mark) == 3


def test_nothing_is_claimed_where_the_certificate_fails_for_all(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    verified(run, Reason("(e) two have the same weights", False, "Train again.", ()))
    page = Page(report.write(run, "demo", data))
    assert "(e) two have the same weights Train again." in page.texts("header")[0]
    text = page.text("sources")
    assert "so the new picture may still owe something to that source" in text
    assert "owes nothing" not in text


def test_warnings_about_some_sources_are_told_at_their_rows(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    verified(run, Reason("Warning: near", None, "", (1, 2, 9)))
    page = Page(report.write(run, "demo", data))
    assert "The certificate holds" in page.texts("header")[0]
    assert "Warning: near" in page.texts("header")[0]
    assert "label owl perhaps not exact: see the certificate" in page.text("query-2")


def test_a_folder_that_changed_since_it_was_verified_claims_nothing(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    verified(run)
    (run.member(2) / "new").touch()
    page = Page(report.write(run, "demo", data))
    assert "not been checked since this folder was changed" in page.texts("header")[0]
    assert "owes nothing to that source." not in page.text("sources")


def test_a_book_of_more_sources_than_fit_says_so(tmp_path):
    data = finished.images(600)
    run = finished.asked(finished.trained(tmp_path / "run", data, n_members=14), data)
    page = Page(report.write(run, "demo", data))
    assert "The first 512 of 600 sources are shown." in page.text("code-book")


def test_64_queries_of_all_digits_make_a_page_below_ten_megabytes(tmp_path):
    data = finished.images(1797)
    run = finished.trained(tmp_path / "run", data, n_members=16)
    finished.ablated(finished.asked(run, data, n_queries=64), n_top=6)
    assert report.write(run, "demo", data).stat().st_size < 10e6


def test_sources_beyond_the_shown_ones_are_counted(tmp_path):
    data = finished.images(60)
    run = finished.trained(tmp_path / "run", data, n_members=10)
    finished.ablated(finished.asked(run, data, n_queries=1), n_top=6)
    text = Page(report.write(run, "demo", data)).text("query-0")
    assert "The next 50 sources of query 0 4 sources more are not shown" in text


def test_queries_that_do_not_exist_are_named(tmp_path, data):
    run = finished.trained(tmp_path / "run", data)
    with pytest.raises(BadInput, match=r"queries/nope/info.json is missing"):
        report.write(run, "nope", data)


def test_a_damaged_table_is_named_and_nothing_is_written(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    with (run.influence("demo") / "excess.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInput, match=r"excess.npy is damaged"):
        report.write(run, "demo", data)
    assert not (run.path / "report.html").exists()


def test_the_report_needs_no_torch():
    code = "import sys, ensemble.report; print({'torch', 'diffusers'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_text_and_paper_contrast_enough_in_light_and_in_dark(page):
    schemes = re.findall(r":root \{([^}]*)\}", page.source)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for name in ("ink", "quiet", "link", "mark"):
            for ground in ("paper", "wash"):
                assert contrast(colours[name], colours[ground]) >= 4.5
        for name in ("bars", "line"):
            assert contrast(colours[name], colours["paper"]) > 1.9


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast of two colours."""
    lights = []
    for colour in (one, other):
        shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4
        )
        lights.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


PROBE = """<script>
addEventListener("load", async () => {
  const all = (what) => [...document.querySelectorAll(what)];
  all("details").forEach((fold) => fold.open = true);
  await Promise.all(all("img").map((image) => image.decode().catch(() => 0)));
  const outlined = (element) => {
    element.focus();
    const style = getComputedStyle(element);
    const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return document.activeElement === element && shown;
  };
  const controls = all("a[href], summary, [tabindex='0']");
  parent.postMessage(JSON.stringify({
    address: location.protocol,
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    n_images: document.images.length,
    broken: all("img").filter((image) => !image.naturalWidth).map((image) => image.alt),
    hidden: controls.filter((one) => !outlined(one)).map((one) => one.outerHTML),
    skip: (outlined(controls[0]), controls[0].getBoundingClientRect().top >= 0),
    aside: all("td.key").filter((cell) => {
      const place = cell.getBoundingClientRect();
      return !place.width || place.left < 0 || place.right > innerWidth;
    }).length,
    n_keys: all("td.key").length,
    small: all("svg text").filter((text) => text.getBoundingClientRect().height < 11)
      .map((text) => text.textContent),
  }), "*");
});
</script>"""
# A browser's window cannot be as narrow as a phone; a frame in it can.
FRAME = """<title>nothing</title>
<script>addEventListener("message", (event) => document.title = event.data)</script>
<iframe src="probed.html" style="border: 0; height: 800px; width: {width}px"></iframe>
"""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --window-size=1300,900 --virtual-time-budget=8000 --dump-dom"
)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the path")
@pytest.mark.parametrize("width", [360, 390, 1200])
def test_a_browser_shows_all_of_it_on_phones_and_desks(page, tmp_path, width):
    # The page's own policy forbids scripts, so the copy that is probed has none.
    policy = re.search("<meta http-equiv=.*?>", page.source)
    assert policy is not None
    probed = page.source.replace(policy[0], "").replace("</body>", f"{PROBE}</body>")
    (tmp_path / "probed.html").write_text(probed, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *FLAGS.split(), profile, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found["address"] == "file:"
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["n_images"] == len(page.all("img"))
    assert found["broken"] == []
    assert found["hidden"] == []
    assert found["skip"]
    # Displacement and p of every row, without scrolling sideways.
    assert found["aside"] == 0
    assert found["n_keys"] == 2 * 3 * 12
    assert found["small"] == []


def test_a_source_in_doubt_is_told_of_and_not_named(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    sentence = "Query 1: one of source 0 and source 5 displaces it; neither is named."
    doubt = {"query": 1, "unit": 0, "sentence": sentence}
    finished.ablated(run, doubts=[doubt], p_sentence="It promises little.")
    page = Page(report.write(run, "demo", data))
    assert sentence in page.text("query-1")
    assert "So no source is named." in page.text("query-1")
    assert "if all sources were placebos" not in page.text("query-1")
    assert all(sentence not in page.text(f"query-{query}") for query in (0, 2))
    assert "It promises little." in " ".join(page.texts("dd"))


def test_old_p_values_are_said_to_be_against_placebos_alone(tmp_path, data):
    run = finished.asked(finished.trained(tmp_path / "run", data), data)
    page = Page(report.write(finished.ablated(run), "demo", data))
    assert "made by version 0.1, against placebos alone" in " ".join(page.texts("dd"))


def test_queries_that_other_members_made_are_refused(tmp_path, data):
    run = finished.run(tmp_path / "run", data)
    path = run.queries("demo") / "info.json"
    info = files.read_json(path) | {"weights_digest": "another"}
    files.write_json(path, info)
    with pytest.raises(BadInput, match="queries/demo was made by other members"):
        report.write(run, "demo", data)

"""A name of queries becomes folders; it stays in the run and is nobody else's."""

import pytest

from ensemble.run import config_file, folder, query_names
from splits.errors import BadInput

WRONG = {
    "": "it is empty",
    "  ": "it is empty",
    "../../esc": "it would be a path",
    "/tmp/esc": "it would be a path",
    "a/b": "it would be a path",
    "a\\b": "it would be a path",
    "..": "it begins with '.'",
    ".": "it begins with '.'",
    ".features": "it begins with '.'",
    "-n": "it begins with '-'",
    "demo.part": "names end in .part",
    "demo.old": "names end in .old",
    "demo.work": "names end in .work",
    "demo.lock": "names end in .lock",
    "x" * 101: "it has 101 bytes",
    "é" * 51: "it has 102 bytes",
    "a\nb": "characters that cannot be shown",
    "a\x00b": "characters that cannot be shown",
    "a\u202eb": "characters that cannot be shown",
    "a\udcffb": "characters that cannot be shown",
    " demo": "begins or ends with a blank",
    "demo ": "begins or ends with a blank",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_name_of_a_folder_is_refused_with_the_reason(name):
    with pytest.raises(BadInput, match="A set of queries cannot be called") as error:
        query_names.checked(name)
    assert WRONG[name] in str(error.value)


@pytest.mark.parametrize(
    "name", ["demo", "demo-differential", "a.b", "Ä 1", "x" * 100, "é" * 50, "part"]
)
def test_other_names_stay_as_they_are(name):
    assert query_names.checked(name) == name


@pytest.mark.parametrize("kind", ["queries", "influence", "scores"])
def test_whatever_becomes_a_path_is_checked(tmp_path, kind):
    run = folder.create(config_file.from_dict({"run": str(tmp_path / "run")}))
    assert getattr(run, kind)("demo") == run.path / kind / "demo"
    with pytest.raises(BadInput, match="it would be a path"):
        getattr(run, kind)("../esc")

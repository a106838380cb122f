"""Every file in configs/ loads, says what to expect and has a run folder of its own."""

from itertools import takewhile
from pathlib import Path

import pytest

from ensemble.run import config_file

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_there_are_configs():
    assert FILES


@EVERY_FILE
def test_it_loads(path):
    config_file.load(path)


@EVERY_FILE
def test_its_header_says_in_three_lines_or_more_what_to_expect(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    assert len([line for line in header if line.strip("# ")]) >= 3


def test_no_two_share_a_run_folder():
    folders = [config_file.load(path).run for path in FILES]
    assert len(set(folders)) == len(folders)

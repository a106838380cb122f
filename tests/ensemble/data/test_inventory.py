"""An inventory counts everything, and shows a few names of each kind."""

from ensemble.data.inventory import FIRST_RULES, Inventory


def test_the_largest_kind_comes_first_with_its_first_names():
    inventory = Inventory(n_images=1234)
    inventory.leave_out("hidden", ".x")
    for number in range(1000):
        inventory.leave_out("of format .heic", f"{number}.heic")
    assert inventory.lines() == [
        "1,234 images; 1,001 files not read:",
        "  1000 of format .heic: 0.heic, 1.heic, 2.heic, ...",
        "  1 hidden: .x",
    ]


def test_a_file_that_is_read_in_part_twice_counts_once():
    inventory = Inventory(n_images=1)
    for _ in range(2):
        inventory.read_in_part("the first page is read", "a.tif")
    inventory.notes.append("This is a note.")
    assert inventory.lines() == [
        "1 image; no other file was found",
        "  the first page is read: 1 file, a.tif",
        "  This is a note.",
    ]


def test_what_comes_from_no_files_says_nothing():
    assert Inventory().lines() == []


def test_only_the_first_rules_pass_over_what_cannot_be_read():
    assert Inventory().strict
    assert not Inventory(FIRST_RULES).strict

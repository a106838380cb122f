"""Benchmarks run at the smallest size, and their numbers make sense."""

from benchmarks import designs, scale


def test_a_small_census_finds_nothing_wrong():
    found = scale.main(20_000, seconds=0.001)
    assert found["census"]["n_sources"] == 20_000
    assert found["census"]["n_wrong"] == 0
    assert found["census"]["greatest_deviation_in_sigmas"] < 5
    for ways in found["codes_a_second"].values():
        assert set(ways) == {"words", "numbered", "named", "rendezvous"}
        assert min(ways.values()) > 0


def test_every_design_that_fits_is_drawn():
    found = designs.drawing(100, n_members=16)
    assert {"balanced", "sparse", "partition"} <= set(found)
    for row in found.values():
        assert row["split_min"] <= row["split_max"]
        assert row["mean_squared_correlation"] >= row["welch"] - 1e-12

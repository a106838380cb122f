"""A reader reads what comes, or refuses it in one message; millions are a benchmark."""

import pytest

from benchmarks.robustness import fuzz, guided_fuzz

# The slower a reader, the fewer inputs.
N_INPUTS = {"config": 600, "codes": 1000, "array": 1500, "image": 1500, "shard": 300}
N_INPUTS |= {"table": 150, "names": 1500, "pipeline": 200}


@pytest.mark.parametrize("name", fuzz.READERS)
def test_valid_inputs_are_read(name):
    for content in fuzz.READERS[name].valid():
        fuzz.READERS[name].read(content)


@pytest.mark.parametrize("name", fuzz.READERS)
def test_mutated_inputs_are_read_or_refused(name):
    found = fuzz.fuzzed(name, N_INPUTS[name], seed=1)
    assert found["wrong"] == []
    # Mutations that always or never spoil an input would test little.
    assert 0 < found["read"] < N_INPUTS[name]


def test_coverage_guides_further_mutations():
    pytest.importorskip("atheris")
    found = guided_fuzz.in_a_process("codes", 500, seed=1)
    assert found["wrong"] == []
    assert found["inputs"] == found["read"] + found["refused"] == 500
    assert found["edges_covered"] > found["edges_covered_at_first"] > 0
    assert found["inputs_kept"] > 3


def test_a_fuzzer_that_dies_says_so():
    with pytest.raises(RuntimeError, match="(?s)no such reader ended early: .*Error"):
        guided_fuzz.in_a_process("no such reader", 1, seed=1)

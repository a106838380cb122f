"""Whatever happens to a file of a run is found, or makes no difference.

Cases by the hundred are a benchmark; here every kind of file meets one accident.
"""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from benchmarks.robustness import damage
from ensemble.cli import train
from ensemble.evaluation import predictors
from ensemble.run.folder import Run, open_run
from splits.errors import BadInput

N_CASES = 40
# Everything that a run can hold is made first, with types checked.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # Two pictures are too few for a good fit; that is not what is tested.
        warnings.simplefilter("ignore")
        return damage.prepared(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def copy(whole) -> Run:
    return open_run(damage.copied(whole))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damage_is_found_or_makes_no_difference(whole):
    rng = np.random.default_rng(0)
    kinds = damage.artefacts(whole)
    chosen = rng.permutation(sorted(kinds))[:N_CASES]
    cases = [
        damage.case(
            kinds, damage.KINDS[number % len(damage.KINDS)], kinds[kind][0], rng
        )
        for number, kind in enumerate(chosen.tolist())
    ]
    counts, wrong = damage.tried(whole, damage.undisturbed(whole), cases, rng)
    assert wrong == []
    assert sum(counts[f"{kind}: found"] for kind in damage.KINDS) > N_CASES / 2


def test_ablation_without_its_record_is_missed(copy):
    (copy.influence("demo") / "exact" / "info.json").unlink()
    with pytest.raises(BadInput, match=r"influence/demo/exact/info\.json is missing"):
        predictors.find(copy, "demo")


@pytest.mark.parametrize("file", ["scores/demo/trak.json", "evaluation/lds-demo.json"])
def test_a_table_without_its_record_is_missed_in_the_report(copy, file):
    (copy.path / file).unlink()
    with pytest.raises(BadInput, match=f"{file} is missing"):
        damage.reported(copy.path)


def test_a_table_for_papers_is_made_from_what_is_checked(copy):
    path = copy.evaluation / "far-demo.csv"
    before = path.read_text()
    path.write_text(before.replace("0", "1"))
    damage.told(copy.path, "evaluate", "--what", "far", *FAR)
    assert path.read_text() == before


FAR = ("--method", "pixel_dot", "--random", "2")


@pytest.mark.parametrize(
    "file", ["model_index.json", "scheduler/scheduler_config.json"]
)
def test_a_pipeline_file_that_was_deleted_is_made_again_by_training(copy, file):
    before = (copy.path / file).read_bytes()
    (copy.path / file).unlink()
    config = str(copy.path / "config.yaml")
    with contextlib.redirect_stdout(None):
        assert train.main([config, f"run={copy.path}"]) == 0
    assert (copy.path / file).read_bytes() == before

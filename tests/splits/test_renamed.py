"""What version 0.1 called by another name is found under it, and the warning says where."""

import importlib
import subprocess
import sys
import warnings

import pytest

from ensemble import old_names
from ensemble.run.folder import Run
from splits import old_names as old_names_of_splits
from tests import tiny

MODULES = {**old_names.MODULES, **old_names_of_splits.MODULES}
SEVERAL = [old for old, new in MODULES.items() if not isinstance(new, str)]
NAMES = {**old_names.NAMES, **old_names_of_splits.NAMES}
CHANGED = {old.rpartition(".")[0] for old in NAMES}
# One name of each module whose parts are in several now, and of former modules.
MOVED = {
    "ensemble.ablation.block_size": "ensemble.ablation.exact",
    "ensemble.coded_shards.laid_out": "ensemble.provenance.coded_shards",
    "ensemble.config.Config": "ensemble.run.config",
    "ensemble.config.load": "ensemble.run.config_file",
    "ensemble.influence.quadratic_influence": "ensemble.ablation.influence_tables",
    "ensemble.measurement.chosen_measurements": "ensemble.ablation.measurement_names",
    "ensemble.model.EnsembleModel": "ensemble.models.ensemble_model",
    "ensemble.model.build_member": "ensemble.models.denoisers",
    "ensemble.model.sampler": "ensemble.sampling.schedulers",
    "ensemble.pipeline.complete": "ensemble.sampling.completion",
    "ensemble.pipeline.initial_noise": "ensemble.sampling.trajectory",
    "ensemble.plan.prepare": "ensemble.provenance.drawing",
    "ensemble.scorers.gaussian.combined": "ensemble.scorers.posterior.combination",
    "ensemble.scorers.memory.activation_bytes": "ensemble.models.memory",
    "ensemble.scoring.scorer_called": "ensemble.scorers.runner",
    "ensemble.scoring.load_path": "ensemble.scorers.score_files",
    "ensemble.scoring.score": "ensemble.scorers.runner",
    "ensemble.sensitivity.designed": "ensemble.ablation.first_order",
    "ensemble.sensitivity.forward_mode": "ensemble.ablation.tangents",
    "ensemble.sensitivity.stepped_beside": "ensemble.ablation.coupled",
    "ensemble.silence.removed": "ensemble.run.removal_log",
    "ensemble.silence.silenced_by": "ensemble.run.voters",
    "ensemble.store.Run": "ensemble.run.folder",
    "ensemble.store.note_stage": "ensemble.run.manifest",
    "ensemble.store.versions": "ensemble.system.environment",
    "ensemble.store.visible": "ensemble.system.text",
    "ensemble.store.write_json": "ensemble.run.files",
    "ensemble.training.Stopping": "ensemble.training.process",
    "ensemble.training.denoising_loss": "ensemble.training.optimization",
    "ensemble.training.describe": "ensemble.training.description",
    "ensemble.training.train_members": "ensemble.training.members",
    "splits.comparison.table": "splits.choosing.comparison_table",
    "splits.designs.partition": "splits.designs.dealing",
}


def imported(name):
    """A module, imported anew if it is an old name."""
    if name in MODULES:
        sys.modules.pop(name, None)
    return importlib.import_module(name)


def homes_of(old):
    new = MODULES[old]
    return (new,) if isinstance(new, str) else new


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_warns_with_the_places_of_its_parts(old):
    if "ray" in old:
        pytest.importorskip("ray")
    with pytest.warns(DeprecationWarning, match=f"^{old} is called ") as said:
        module = imported(old)
    assert all(home in str(said[0].message) for home in homes_of(old))
    if old not in SEVERAL and old not in CHANGED:
        assert module is importlib.import_module(MODULES[old])


@pytest.mark.parametrize("old", MOVED)
def test_a_name_is_found_where_its_module_was_and_the_warning_says_where_it_is(old):
    old_module, _, name = old.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = imported(old_module)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(MOVED[old]), name)
    if old_module not in MODULES or old_module in SEVERAL:
        (warning,) = said
        assert warning.category is DeprecationWarning
        assert f"{old} is called {MOVED[old]}.{name} since" in str(warning.message)


def test_no_module_whose_parts_are_in_several_is_left_out():
    tried = {old.rpartition(".")[0] for old in MOVED}
    needless = {
        "ensemble.ray_engine",
        "ensemble.scorers.disk",
        "ensemble.scorers.features",
    }
    assert set(SEVERAL) - needless <= tried


@pytest.mark.parametrize("old", NAMES)
def test_what_has_another_name_now_is_found_by_the_old_one(old):
    old_module, _, name = old.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = imported(old_module)
    new = NAMES[old]
    home, _, new_name = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new} since"):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(home), new_name)


def test_an_instance_is_one_of_the_class_by_either_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = imported("ensemble.store").Run
    settings = tiny.config(tmp_path)
    assert isinstance(Run(tmp_path, settings), old)
    assert isinstance(old(tmp_path, settings), Run)


def test_what_was_never_there_is_not_there():
    with pytest.warns(DeprecationWarning, match="until 0.3"):
        module = imported("ensemble.store")
    with pytest.raises(AttributeError, match=r"ensemble\.store.*'nothing'"):
        module.nothing  # noqa: B018


def test_a_module_of_a_package_is_not_looked_for_elsewhere():
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from ensemble.training import checkpoint\n"
        "assert checkpoint.__name__ == 'ensemble.training.checkpoint'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_is_run_by_its_old_name():
    command = [sys.executable, "-m", "ensemble.coded_shards", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")

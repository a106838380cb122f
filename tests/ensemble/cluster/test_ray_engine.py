"""A Ray cluster computes what one machine computes, whatever becomes of its nodes."""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from ensemble.cli import attribute, train
from ensemble.provenance import drawing
from ensemble.run import config_file
from ensemble.run.files import read_json
from ensemble.run.folder import CHECKPOINT, create
from ensemble.training.process import Interrupted
from splits.errors import BadInput
from tests import tiny

pytest.importorskip("ray", reason="needs the extra `ray`")

from ray.cluster_utils import Cluster

from ensemble.cluster import node_tasks, ray_cluster

ROOT = Path(__file__).parents[3]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
LONG = {"steps": 200, "checkpoint_every_steps": 10}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one core each, of which the second may be lost."""
    patched = pytest.MonkeyPatch()
    patched.setenv("PYTHONPATH", str(ROOT))
    patched.setenv("RAY_AUTH_MODE", "disabled")
    patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {**NODE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()
    patched.undo()


def on(cluster):
    return ["--engine", "ray", "--address", cluster.address]


def written(folder, **changes):
    """A config file."""
    config = tiny.config(folder, **changes)
    path = folder.with_suffix(".yaml")
    path.write_text(config_file.to_yaml(config))
    return str(path)


def same_files(first, second, pattern):
    """Whether both folders hold the same bytes, and something at all."""
    files = sorted(path.relative_to(first) for path in first.glob(pattern))
    assert files
    assert files == sorted(path.relative_to(second) for path in second.glob(pattern))
    return all((first / f).read_bytes() == (second / f).read_bytes() for f in files)


def task(function, run, *arguments):
    """What a node does, done here."""
    return function(node_tasks.Place(str(run.path), os.getcwd()), *arguments)


def test_scripts_and_package_import_nothing_of_ray():
    script = (
        "import sys; from ensemble.cli import attribute, train;"
        "from ensemble import ablation, certificate, evaluation, scorers, training;"
        "from ensemble.ablation import influence;"
        "from ensemble.scorers import runner;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_without_the_extra_the_engine_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match="Install the extra `ray`"):
        importlib.reload(ray_cluster)


def test_a_share_of_a_gpu_is_not_negative():
    with pytest.raises(BadInput, match="cannot have -1.0 GPUs"):
        ray_cluster.Cluster(gpus=-1.0)


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_more_than_one_gpu_is_a_whole_number(gpus):
    with pytest.raises(BadInput, match=f"cannot have {gpus} GPUs: a share of one"):
        ray_cluster.Cluster(gpus=gpus)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "127.0.0.1", "host:port", "a:99999"]
)
def test_where_nobody_listens_there_is_no_cluster(address):
    began = time.monotonic()
    expected = f"There is no Ray cluster at {address!r} .*or say --address local"
    with (
        pytest.raises(BadInput, match=expected),
        ray_cluster.Cluster(address).connected(),
    ):
        pass
    assert time.monotonic() - began < 60


def test_where_somebody_else_listens_there_is_no_cluster(monkeypatch):
    monkeypatch.setattr(ray_cluster, "HEALTH_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(BadInput, match="whoever listens there is no Ray cluster"),
            ray_cluster.Cluster(address).connected(),
        ):
            pass


class FakeRay:
    """A cluster of one node with two cores and no GPU."""

    def __init__(self):
        self.waits = []

    def cluster_resources(self):
        return {"CPU": 2.0}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def wait(self, references, timeout=None):
        self.waits.append(timeout)
        return (references[:1], references[1:]) if timeout is None else ([], references)


@pytest.mark.parametrize(
    ("gpus", "cpus", "wanted"), [(1.0, 1, "1 GPU and 1 core"), (0.0, 3, "3 cores")]
)
def test_a_task_that_a_cluster_of_its_own_cannot_take_is_refused(
    monkeypatch, gpus, cpus, wanted
):
    monkeypatch.setattr(ray_cluster, "ray", FakeRay())
    with pytest.raises(BadInput, match=f"No node of the cluster has {wanted}, which"):
        ray_cluster.Tasks(gpus, own=True).start(print, cpus=cpus)


@pytest.mark.parametrize(("gpus", "lines"), [(1.0, 1), (0.0, 0)])
def test_a_standing_cluster_that_cannot_take_a_task_is_told_of_once(
    monkeypatch, capsys, gpus, lines
):
    monkeypatch.setattr(ray_cluster, "ray", FakeRay())
    tasks = ray_cluster.Tasks(gpus)
    tasks.waiting = [1, 2]
    assert tasks.next_done() == 1
    assert tasks.next_done() == 2
    assert capsys.readouterr().err.count("1 GPU and 1 core, which each task") == lines


def test_methods_that_do_not_sample_without_units_are_refused(tmp_path):
    run = create(tiny.config(tmp_path / "run"))
    drawing.prepare(run)
    adjoint = ["ablate", "--method", "adjoint", "--engine", "ray"]
    with pytest.raises(BadInput, match="say --method exact, or leave --engine out"):
        attribute.main([str(run.path), *adjoint])


def test_a_node_that_does_not_see_the_run_says_so(tmp_path):
    place = node_tasks.Place(str(tmp_path / "none"), os.getcwd())
    with pytest.raises(BadInput, match=r"does not see .*none\. Every node needs"):
        node_tasks.train_member(place, 0)


def test_a_member_that_diverges_is_told_and_not_tried_again(tmp_path):
    wild = {"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_steps": 0}
    run = create(tiny.config(tmp_path / "run", training=wild))
    drawing.prepare(run)
    assert "Member 000: the loss is" in str(task(node_tasks.train_member, run, 0))


@pytest.fixture
def held(tmp_path):
    """A run whose member 0 is being trained by somebody; and who holds it."""
    run = create(tiny.config(tmp_path / "run"))
    drawing.prepare(run)
    run.members.mkdir()
    holder = filelock.FileLock(run.members / ".000.lock", thread_local=False)
    with holder:
        yield run, holder


def test_a_task_waits_for_the_process_that_outlives_its_node(held):
    run, holder = held
    threading.Timer(0.5, holder.release).start()
    assert task(node_tasks.train_member, run, 0) is None
    assert run.member(0).exists()


def test_a_task_that_waits_stops_when_it_is_asked_to(held):
    run, _ = held
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        task(node_tasks.train_member, run, 0)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_scores_and_ablations_are_those_of_one_machine(cluster, tmp_path):
    run, _ = tiny.trained(tmp_path / "here")
    attribute.main([str(run.path), "generate", "--n", "3"])
    shutil.copytree(run.path, tmp_path / "there")
    for folder, engine in (("here", []), ("there", on(cluster))):
        ablate = ["ablate", "--placebos", "5", "--max-memory", "1"]
        attribute.main([str(tmp_path / folder), *ablate, *engine])
        score = ["score", "--method", "pixel_dot,trak"]
        attribute.main([str(tmp_path / folder), *score, *engine])
    here, there = tmp_path / "here", tmp_path / "there"
    assert same_files(here, there, "influence/demo/exact/*.npy")
    assert same_files(here, there, "scores/demo/*.npy")
    work = [
        read_json(folder / "influence" / "demo" / "exact" / "info.json")[
            "member_forwards"
        ]
        for folder in (here, there)
    ]
    assert work[0] == work[1]


@pytest.mark.slow
def test_a_node_that_is_killed_while_it_trains_changes_nothing(cluster, tmp_path):
    few = {"n_members": 2}
    here = written(tmp_path / "here", splits=few, training=LONG)
    there = written(tmp_path / "there", splits=few, training=LONG)
    assert train.main([here]) == 0
    members = tmp_path / "there" / "members"
    seen = []

    def kill():
        while len(list(members.glob(f"*.part/{CHECKPOINT}"))) < 2:
            time.sleep(0.02)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        seen.extend(path.name for path in members.iterdir())

    killing = threading.Thread(target=kill)
    killing.start()
    assert train.main([there, *on(cluster)]) == 0
    killing.join()
    assert {"000.part", "001.part"} <= set(seen)
    for pattern in ("members/*/*.safetensors", "members/*/exposure.npy"):
        assert same_files(tmp_path / "here", tmp_path / "there", pattern)
    assert (tmp_path / "there" / "model_index.json").exists()

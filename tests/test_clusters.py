"""Members dealt out by others: Accelerate on one machine, and on two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ensemble.run import files
from tests import tiny

ROOT = Path(__file__).parent.parent
N_MEMBERS = 6


@pytest.fixture
def config(tmp_path):
    """Six members that take no time."""
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": N_MEMBERS, "weight": 3}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def started(command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return str(probe.getsockname()[1])


def trained_by(output):
    """The members that a process says it has trained."""
    return [m for m in range(N_MEMBERS) if f"member {m:03d}: trained" in output]


def complete(folder):
    """Whether every member is there, each trained once and to its end."""
    for member in range(N_MEMBERS):
        curve = files.read_json(folder / "members" / f"{member:03d}" / "member.json")
        if curve["loss_curve"]["steps"] != [2, 4, 6]:
            return False
    return (folder / "model_index.json").exists()


@pytest.mark.slow
def test_two_machines_train_every_second_member_each(config, tmp_path):
    """As `accelerate launch --num_machines 2` tells them; they meet on 127.0.0.2."""
    meeting = {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": free_port("127.0.0.2")}
    machines = [
        started(
            ["train.py", str(config)],
            **meeting,
            RANK=str(machine),
            WORLD_SIZE="2",
            LOCAL_RANK="0",
            LOCAL_WORLD_SIZE="1",
            GLOO_SOCKET_IFNAME="lo",
        )
        for machine in range(2)
    ]
    outputs = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert [trained_by(output) for output in outputs] == [[0, 2, 4], [1, 3, 5]]
    assert ["Next: python" in output for output in outputs] == [True, False]
    assert complete(tmp_path / "run")


@pytest.mark.slow
def test_accelerate_launches_two_processes(config, tmp_path):
    """The command itself; `--multi_gpu` starts them where there are no devices too."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", free_port("127.0.0.1")]
    process = started([*launch, "train.py", str(config)], GLOO_SOCKET_IFNAME="lo")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for member in range(N_MEMBERS):
        assert output.count(f"member {member:03d}: trained") == 1
    assert output.count("Next: python") == 1
    assert complete(tmp_path / "run")

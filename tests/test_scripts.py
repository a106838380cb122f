"""The scripts, as people run them: train, attribute, again, and with bad input."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ensemble.cli import attribute, train
from ensemble.run import config_file, files
from ensemble.run.folder import create
from splits.errors import BadInput
from tests import finished, tiny

ROOT = Path(__file__).parent.parent


def script(name, *arguments, timeout=240):
    """Run a script; returns exit code, output and errors."""
    finished = subprocess.run(
        [sys.executable, ROOT / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=timeout,
    )
    return finished.returncode, finished.stdout, finished.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder made by train.py, in two processes."""
    folder = tmp_path_factory.mktemp("scripts")
    config = folder / "tiny.yaml"
    tree = {"run": str(folder / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 6, "weight": 3}
    config.write_text(yaml.safe_dump(tree))
    code, out, err = script("train.py", config, "training.processes=2")
    assert code == 0, err
    assert "Training 6 members in 2 processes" in out
    assert f"Next: python attribute.py {folder / 'run'}" in out
    return config, folder / "run"


@pytest.mark.slow
def test_everything_with_defaults_and_again_without_work(trained):
    _, run = trained
    code, out, err = script("attribute.py", run)
    assert code == 0, err
    assert "certificate" in out
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    before = (run / "influence" / "demo" / "exact" / "info.json").stat().st_mtime_ns
    code, _, err = script("attribute.py", run)
    assert code == 0, err
    assert (
        run / "influence" / "demo" / "exact" / "info.json"
    ).stat().st_mtime_ns == before


@pytest.mark.slow
def test_training_again_is_a_no_op_and_other_options_are_refused(trained):
    config, run = trained
    before = (run / "members" / "000" / "member.json").stat().st_mtime_ns
    code, out, err = script("train.py", run / "config.yaml", "training.processes=1")
    assert code == 0, err
    assert "6 members in" in out
    assert (run / "members" / "000" / "member.json").stat().st_mtime_ns == before
    code, _, err = script("train.py", config, "training.steps=7")
    assert code == 2
    assert "training.steps: 6 -> 7" in err


@pytest.mark.slow
def test_the_reference_is_trained_by_the_same_command_and_scored(trained, tmp_path):
    _, original = trained
    run = tmp_path / "run"
    shutil.copytree(original, run)
    code, _, err = script("attribute.py", run, "generate", "--name", "two", "--n", 2)
    assert code == 0, err
    score = ("score", "--name", "two", "--method", "pixel_dot", "--model", "reference")
    code, _, err = script("attribute.py", run, *score)
    assert code == 2
    assert "--reference" in err
    code, out, err = script(
        "train.py", run / "config.yaml", f"run={run}", "--reference"
    )
    assert code == 0, err
    assert f"6 members and the reference in {run}" in out
    code, _, err = script("attribute.py", run, *score)
    assert code == 0, err
    sidecar = run / "scores" / "two" / "pixel_dot-reference.json"
    assert files.read_json(sidecar)["model"] == "reference"


@pytest.mark.slow
def test_processes_that_others_started_share_the_members(tmp_path):
    """As `accelerate launch` and torchrun start them, where there are devices."""
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 6, "weight": 3}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tree))
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc_per_node", "2", "train.py", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Next: python attribute.py") == 1
    for member in range(6):
        assert finished.stdout.count(f"member {member:03d}: trained") == 1


@pytest.mark.slow
def test_commands_one_by_one(trained):
    _, run = trained
    code, out, err = script(
        "attribute.py", run, "generate", "--name", "one", "--n", 2, "--seed", 5
    )
    assert code == 0, err
    assert np.load(run / "queries" / "one" / "seeds.npy").tolist() == [5, 6]
    code, out, err = script(
        "attribute.py",
        *(run, "ablate", "--name", "one", "--sources", "1"),
        *("--measurement", "contrast", "--placebos", 3),
    )
    assert code == 0, err
    assert "without source 1 (digit 0001): 3 of 6 members stay" in out
    (folder,) = (run / "influence" / "one").glob("exact-*")
    info = files.read_json(folder / "info.json")
    assert info["measurements"] == ["contrast"]
    assert info["n_placebos"] == 3
    code, out, err = script(
        "attribute.py", run, "ablate", "--name", "one", "--method", "differential"
    )
    assert code == 0, err
    assert (run / "influence" / "one" / "differential" / "gram.npy").exists()
    code, out, err = script(
        "attribute.py", run, "score", "--name", "one", "--method", "random,pixel_dot"
    )
    assert code == 0, err
    assert len(list((run / "scores" / "one").glob("*.npy"))) == 2
    code, out, err = script("attribute.py", run, "score", "--list")
    assert "trak" in out
    code, out, err = script("attribute.py", run, "verify", "--sources", "1,2")
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--n", "0"], "--n is 0"),
        (["ablate", "--name", "none"], "There are no queries called 'none'"),
        (["ablate", "--sources", "x"], "--sources names 'x', but no source is called"),
        (["ablate", "--sources", ""], "--sources is ''"),
        (["ablate", "--groups", "artist"], "no column 'artist'"),
        (["ablate", "--accuracy", "0.9"], "--accuracy has no effect with --method ex"),
        (["score"], "Name a method"),
        (["score", "--method", "track"], "track"),
        (["score", "--method", "trak", "--dampings", "x"], "--dampings is 'x'"),
        (["score", "--method", "trak", "--dampings", "1,-1"], "numbers above 0"),
        (["verify", "--sources", "99"], "Source 99 does not exist"),
        (["report", "--name", "none"], "none"),
    ],
)
def test_bad_input_ends_in_one_message_and_code_2(trained, arguments, message):
    _, run = trained
    code, _, err = script("attribute.py", run, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_sources_are_removed_members_repaired_and_all_is_proven(
    tmp_path, capsys, monkeypatch
):
    """In this process: starting Python seven times takes longer than the work."""
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 2, "design": "partition"}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tree))
    run = tmp_path / "run"

    def said(main, *arguments):
        assert main([str(one) for one in arguments]) == 0
        return capsys.readouterr().out

    said(train.main, config)
    assert "Nothing was removed" in said(train.main, config, "--repair")
    with pytest.raises(BadInput, match="names 'digit 03', but .* mean 'digit 0003'"):
        said(attribute.main, run, "remove", "--sources", "digit 03", "--reason", "x")
    assert not (run / "removals.jsonl").exists()
    remove = ("remove", "--sources", "digit 0003", "--reason", "a letter")
    files.write_text(run / "report.html", "<body><p>of before</p></body>")
    first = said(attribute.main, run, *remove)
    assert "report.html was made before: it says so now, at its top" in first
    assert "Outdated. After this page was made" in (run / "report.html").read_text()
    announced, recorded, *_ = first.splitlines()
    assert announced == (
        "To be removed: source 3 (digit 0003). Members that this silences: 1; left to "
        "vote: 1 of 2."
    )
    assert "Request 1 recorded" in recorded
    assert "1 of 2 members silenced, 1 vote" in first
    assert f"Next: python train.py {run / 'config.yaml'} --repair" in first
    again = said(attribute.main, run, *remove)
    assert again.startswith("Removed before: source 3 (digit 0003).\n")
    assert "had been removed before" in again
    assert "Silenced: members" in said(attribute.main, run, "verify")
    again = said(train.main, run / "config.yaml", "--repair")
    assert "know nothing of what was removed" in again
    proven = said(
        attribute.main, run, "verify", "--sources", "1", "--sources", "number:1"
    )
    assert "holds for the ablation of source 1 (digit 0001)." in proven
    assert "(request 1 of" in proven
    assert "Silenced" not in proven


@pytest.mark.parametrize("holds", [True, False])
def test_the_default_command_verifies_first_and_reports_in_any_case(
    tmp_path, capsys, monkeypatch, holds
):
    run = finished.trained(tmp_path / "run", finished.images())
    done = []

    def stage(name):
        def work(_, options):
            assert options.command == name
            done.append(name)
            if name == "verify" and not holds:
                raise BadInput("Two members are one. Train again.")

        return work

    for name in ("generate", "verify", "ablate", "report"):
        monkeypatch.setitem(attribute.COMMANDS, name, stage(name))
    if holds:
        assert attribute.main([str(run.path)]) == 0
        assert capsys.readouterr().err == ""
    else:
        with pytest.raises(BadInput, match=r"report\.html is written, .* Two members"):
            attribute.main([str(run.path)])
        assert "warning: Two members are one. Train" in capsys.readouterr().err
    assert done == ["generate", "verify", "ablate", "report"]


@pytest.mark.parametrize("failing", ["generate", "ablate"])
def test_other_errors_of_the_default_command_end_it(tmp_path, monkeypatch, failing):
    run = finished.trained(tmp_path / "run", finished.images())

    def refuse(*_):
        raise BadInput("No. Do something else.")

    for name in ("generate", "verify", "ablate", "report"):
        work = refuse if name == failing else lambda *_: None
        monkeypatch.setitem(attribute.COMMANDS, name, work)
    with pytest.raises(BadInput, match=r"^No\. Do something else\."):
        attribute.main([str(run.path)])


def test_designs_are_compared_for_a_wish_and_nothing_is_written(tmp_path):
    wish = ["--plan", "--remove", "2", "--keep", "3", "--budget", "24"]
    code, out, err = script(
        "train.py", "configs/digits.yaml", f"run={tmp_path / 'run'}", *wish
    )
    assert code == 0, err
    assert out.startswith("16 sources, any 2 removed together, 3 members left")
    assert "Recommended: splits: {design:" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/digits.yaml", "--remove", "3"], "say --plan too"),
        (["configs/digits.yaml", "--plan", "--remove", "0"], "--remove is 0"),
        (["nowhere.yaml"], "Cannot read the config nowhere.yaml"),
        (["configs/digits.yaml", "training.stepz=3"], "Did you mean 'steps'?"),
        (["configs/digits.yaml", "training.learning_rate=1e-4"], "YAML reads 1e-4"),
        (["configs/digits.yaml", "splits.n_members=15"], "15"),
        (["configs/digits.yaml", "splits.n_members=4"], "More sources than codes"),
        (["configs/digits.yaml", "data.kind=shards", "data.path=no.tar"], "no.tar"),
    ],
)
def test_bad_configs_end_in_one_message_and_code_2(tmp_path, arguments, message):
    config, *overrides = arguments
    code, _, err = script("train.py", config, f"run={tmp_path / 'run'}", *overrides)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_the_plan_is_printed_and_nothing_is_written(tmp_path):
    code, out, err = script(
        "train.py", "configs/digits.yaml", f"run={tmp_path / 'run'}", "--plan"
    )
    assert code == 0, err
    assert "images" in out
    for line in ("time  ", "smallest p", "identical", "alike", "disk"):
        assert line in out
    assert f"{tmp_path / 'run'} is not there yet" in out
    assert not (tmp_path / "run").exists()


def test_overrides_may_stand_behind_options(tmp_path):
    code, out, err = script(
        "train.py", "configs/digits.yaml", "--plan", f"run={tmp_path / 'run'}"
    )
    assert code == 0, err
    assert "images" in out


@pytest.mark.parametrize(
    ("environment", "override", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "seed=0", "asks for bf16"),
        ({"ACCELERATE_USE_FSDP": "true"}, "seed=0", "asks for fully sharded training"),
        ({}, "mixed_precision=fp16", "torch finds no GPU here"),
    ],
)
def test_what_cannot_be_trained_here_is_refused_before_a_folder_is_made(
    tmp_path, monkeypatch, environment, override, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    config = ["configs/digits.yaml", f"run={tmp_path / 'run'}", f"training.{override}"]
    with pytest.raises(BadInput, match=message):
        train.main(config)
    assert not (tmp_path / "run").exists()


def photos(folder, n_images):
    folder.mkdir(exist_ok=True)
    for number in range(n_images):
        pixels = np.full((8, 8), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_run_that_cannot_be_leaves_its_folder_to_the_mended_config(tmp_path):
    config = tmp_path / "tiny.yaml"
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 4, "weight": 2}
    tree["data"] = {"kind": "folder", "path": str(tmp_path / "photos")}
    config.write_text(yaml.safe_dump(tree))
    photos(tmp_path / "photos", 8)
    with pytest.raises(BadInput, match="More sources than codes"):
        train.main([str(config)])
    with pytest.raises(BadInput, match="is not a run folder"):
        attribute.main([str(tmp_path / "run")])
    assert train.main([str(config), "splits.n_members=6", "splits.weight=3"]) == 0
    assert (tmp_path / "run" / "members" / "005").exists()


def test_a_config_that_people_wrote_is_never_taken_back(tmp_path):
    config = tmp_path / "run" / "config.yaml"
    config.parent.mkdir()
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 4, "weight": 2}
    tree["data"] = {"kind": "folder", "path": str(tmp_path / "photos")}
    config.write_text(yaml.safe_dump(tree))
    photos(tmp_path / "photos", 8)
    with pytest.raises(BadInput, match="More sources than codes"):
        train.main([str(config)])
    assert config.exists()


def test_the_plan_says_what_stands_in_the_run_folder(tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": 6, "weight": 3}
    config.write_text(yaml.safe_dump(tree))
    create(config_file.load(config))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert train.main([str(config), "--plan"]) == 0
    assert "is there with this config: 0 of 6 members" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"training\.steps: 6 -> 7"):
        train.main([str(config), "training.steps=7", "--plan"])
    assert "work  " in capsys.readouterr().out
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "run" / "a.png")
    with pytest.raises(BadInput, match="is no run folder, and not empty"):
        train.main([str(config), "--plan"])
    assert len(before) == len([*tmp_path.rglob("*")])


@pytest.mark.parametrize("stream", ["true", "false"])
def test_what_is_not_read_is_said_by_the_plan_and_when_training_starts(
    tmp_path, monkeypatch, capsys, stream
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for shade in range(4):
        Image.new("L", (8, 8), shade).save(photos / f"{shade}.png")
    pages = [Image.new("L", (8, 8), shade) for shade in (9, 200)]
    pages[0].save(photos / "pages.tif", save_all=True, append_images=pages[1:])
    (photos / "notes\x1b[2J.txt").write_text("")
    tree = {"run": str(tmp_path / "run"), **tiny.SETTINGS}
    tree["data"] = {"kind": "folder", "path": str(photos), "stream": stream == "true"}
    tree["splits"] = {"n_members": 4}
    config = tmp_path / "photos.yaml"
    config.write_text(yaml.safe_dump(tree))
    expected = (
        "5 images; 1 file not read:\n"
        "  1 of format .txt: notes\\x1b[2J.txt\n"
        "  of several pictures in a file the first is read: 1 file, "
        f"{photos / 'pages.tif'}\n"
    )
    assert train.main([str(config), "--plan"]) == 0
    assert capsys.readouterr().out.startswith(expected)
    monkeypatch.setattr(train, "train_here", lambda *_: 75)
    assert train.main([str(config)]) == 75
    assert capsys.readouterr().out == expected


def test_unknown_members_are_refused(trained):
    config, _ = trained
    for text, message in (("9", "Member 9 does not exist"), ("a", "--members is 'a'")):
        code, _, err = script("train.py", config, "--members", text)
        assert code == 2
        assert message in err


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    code, _, err = script("attribute.py", tmp_path)
    assert code == 2
    assert "is not a run folder" in err

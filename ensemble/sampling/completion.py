"""Completion: a run folder whose members are trained becomes a pipeline folder."""

from ensemble.models.ensemble_model import EnsembleModel
from ensemble.report import model_card
from ensemble.run import voters
from ensemble.run.files import (
    atomic_folder,
    read_json,
    remove_hidden_files,
    sha256,
    write_text,
)
from ensemble.run.folder import CARD, PIPELINE, Run
from ensemble.run.manifest import is_complete, stage
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.schedulers import sampler
from ensemble.system import locks


def complete(run: Run) -> None:
    """Make a run folder a pipeline folder, with a model card, unless it is one."""
    with locks.exclusive(run.path / "pipeline"):
        if not is_complete(run):
            _complete(run)


def _complete(run: Run) -> None:
    settings = run.config
    n_members = read_json(run.manifest)["n_members"]
    anyone = voters.voting_members(run.path, n_members)[:1]
    for record in run.members.glob("*/member.json"):
        remove_hidden_files(record.parent)
    with stage(run, "train") as facts:
        facts["seconds_of_members"] = model_card.member_seconds(run)
        pipe = EnsemblePipeline(
            members=EnsembleModel.from_pretrained(run.members, anyone),
            scheduler=sampler(settings.model, settings.sampling),
            num_inference_steps=settings.sampling.n_steps,
            guidance_scale=settings.sampling.guidance_scale,
        )
        with atomic_folder(run.path / "scheduler") as to:
            pipe.scheduler.save_pretrained(to)
        write_text(run.path / "model_index.json", pipe.to_json_string())
        facts["files"] = {file: sha256(run.path / file) for file in PIPELINE}
    write_text(run.path / CARD, model_card.model_card(run))

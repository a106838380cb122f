"""Quality: is the ensemble as good a model as a single one, and what does it copy?

The same noise is turned into pictures by the ensemble, by one of its members, by single
models trained on everything for as many steps as a member, and by single models trained
for as many steps as all members together. Beside them, real images show what perfect
would give. Members also say which training images they remember.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from ensemble.data import encoders
from ensemble.data.encoders import Encoder
from ensemble.evaluation import losses, retraining, tables
from ensemble.evaluation.metrics import distribution, intervals, membership
from ensemble.evaluation.options import Options
from ensemble.evaluation.tables import Row
from ensemble.models.objective import objective_of
from ensemble.provenance.plans import Plan
from ensemble.run.config import SplitsConfig
from ensemble.run.folder import Run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers.interface import Examples
from ensemble.system import seeding

SEED = 0
# The pictures' noise seeds begin here, so that no query has one of them.
FIRST_PICTURE = 1_000_000
N_BATCHES = 4
MOST_AUDITED = 1024

# The first axis has no name, because sets of different sizes are compared.
Pictures = Float32[np.ndarray, "_ channels height width"]


def measures(pictures: Pictures, real: Pictures, encoder: Encoder) -> dict[str, float]:
    """All measures that compare a set of pictures with real images."""
    found, wanted = encoder(pictures), encoder(real)
    precision, recall = distribution.precision_and_recall(found, wanted)
    copies = distribution.memorised(_flat(pictures), _flat(real))
    return {
        "frechet": distribution.frechet(found, wanted),
        "kernel_distance": distribution.kernel_distance(found, wanted),
        "precision": precision,
        "recall": recall,
        "memorised": float(copies.mean()),
    }


def row(model: str, batches: Sequence[Sequence[Pictures]], of: "Evaluator") -> Row:
    """One line: means, with intervals over training seeds, or over batches of one.

    Args:
        model: What it is called.
        batches: For each training seed, batches of pictures.
        of: The evaluator.
    """
    found = [
        [measures(batch, of.real, of.encoder) for batch in seed] for seed in batches
    ]
    single = len(found) == 1
    line: Row = {
        "model": model,
        "interval_over": "batches of pictures" if single else "training seeds",
        "n": len(found[0]) if single else len(found),
        "n_pictures": len(batches[0][0]),
    }
    for name in found[0][0]:
        values = np.array([[batch[name] for batch in seed] for seed in found])
        line[name] = intervals.over_batches(
            values[0] if single else values.mean(axis=1)
        )
    return line


class Evaluator:
    """Compares sets of pictures with real images in the features of an encoder.

    All models get the same noise; the encoder is trained on the real images.

    Args:
        plan: The training images.
        n_images: Number of pictures of each model.
    """

    def __init__(self, plan: Plan, n_images: int) -> None:
        self.real = np.asarray(plan.data.images)
        self.encoder = encoders.train(self.real, plan.data.labels)
        seeds = np.arange(FIRST_PICTURE, FIRST_PICTURE + n_images)
        self.batches = np.array_split(seeds, N_BATCHES)

    def pictures(
        self, pipe: EnsemblePipeline, votes: Float[np.ndarray, " members"] | None = None
    ) -> list[Pictures]:
        """Batches of pictures in [-1, 1]; conditional members get labels in turn."""
        return [self._batch(pipe, seeds, votes) for seeds in self.batches]

    def _batch(
        self, pipe: EnsemblePipeline, seeds: np.ndarray, votes: np.ndarray | None
    ) -> Pictures:
        labels = None
        if pipe.members.no_label is not None:
            labels = (seeds % pipe.members.no_label).tolist()
        output = pipe(
            seeds=seeds, class_labels=labels, votes=votes, output_type="latent"
        )
        images: Any = output.images  # type: ignore[union-attr]
        return images.clamp(-1, 1).cpu().float().numpy()

    def real_batches(self) -> list[Row]:
        """Compare some real images with the others, as if they were generated."""
        n_real, found = len(self.real), []
        for number, seeds in enumerate(self.batches):
            order = seeding.rng(SEED, "real images", number).permutation(n_real)
            n = min(len(seeds), n_real // 2)
            chosen, rest = self.real[order[:n]], self.real[order[n:]]
            found.append(measures(chosen, rest, self.encoder))
        line: Row = {"model": "real", "interval_over": "batches of pictures"}
        line |= {"n": N_BATCHES, "n_pictures": min(len(self.batches[0]), n_real // 2)}
        for name in found[0]:
            values = np.array([batch[name] for batch in found])
            line[name] = intervals.over_batches(values)
        return [line]


def evaluate(run: Run, pipe: EnsemblePipeline, plan: Plan, options: Options) -> Path:
    """Compare the ensemble with single models; returns the table's file."""
    path = tables.file(run, "quality", "ensemble")
    steps = _steps(run, plan, options)
    seeds = retraining.seeds(run, options.n_seeds)
    identity = {
        **queries.drawn_by(run, pipe),
        "seeds": seeds,
        "steps": steps,
        "n_images": options.n_images,
        "n_draws": options.n_draws,
    }
    if tables.is_current(path, identity):
        return path
    evaluator = Evaluator(plan, options.n_images)
    alone = np.eye(pipe.members.n_members)[0]
    rows = [
        row("ensemble", [evaluator.pictures(pipe)], evaluator),
        row("member", [evaluator.pictures(pipe, alone)], evaluator),
    ]
    for model, n_steps in steps.items():
        singles = [_single(run, pipe, plan, seed, n_steps) for seed in seeds]
        batches = [evaluator.pictures(single) for single in singles]
        rows.append({**row(model, batches, evaluator), "steps": n_steps})
    facts = {
        "encoder": f"hidden layer of a small network, taught {evaluator.encoder.taught}",
        "audit": audit(run, pipe, plan, options.n_draws),
    }
    tables.write(path, identity, [*rows, *evaluator.real_batches()], facts)
    return path


def work(run: Run, plan: Plan, options: Options) -> str:
    """Describe in one line what has to be trained; empty if nothing has."""
    wanted = [
        (steps, _folder(run, seed, steps))
        for steps in _steps(run, plan, options).values()
        for seed in retraining.seeds(run, options.n_seeds)
    ]
    left = [steps for steps, folder in wanted if not (folder / "README.md").exists()]
    if not left:
        return ""
    return f"{len(left)} single models, {sum(left):,} steps of training"


def audit(run: Run, pipe: EnsemblePipeline, plan: Plan, n_draws: int) -> dict[str, Any]:
    """How much members memorise of training images, and whether an attack finds it."""
    n_images = len(plan.data.images)
    rng = seeding.rng(SEED, "audited images")
    chosen = np.sort(rng.permutation(n_images)[:MOST_AUDITED])
    members = pipe.members.member_ids
    found = losses.measure(
        [run.member(member) for member in members],
        objective_of(run.config.model),
        _examples(pipe, plan, chosen),
        n_draws,
        pipe.members.side_by_side,
    )
    saw = plan.seen_by(members)[plan.source_of[chosen]].T
    remembered = membership.memorisation(found, saw)
    known = remembered[np.isfinite(remembered)]
    facts: dict[str, Any] = {"n_images": len(chosen), "n_members": len(members)}
    if known.size:
        facts["memorisation"] = intervals.over_batches(known)
        facts["most_memorised_images"] = chosen[
            np.argsort(-np.nan_to_num(remembered, nan=-np.inf))[:10]
        ].tolist()
    for name, values in {
        "loss": found,
        "calibrated_loss": membership.calibrated(found),
    }.items():
        facts[name] = _audited(values, saw)
    return facts


def _audited(values: np.ndarray, saw: np.ndarray) -> dict[str, Any]:
    """Of members that some image is hidden from; interval over members."""
    some = np.flatnonzero(saw.any(axis=1) & ~saw.all(axis=1))
    areas = [membership.audit_auc(values[one], saw[one]) for one in some]
    pooled = values[some].reshape(-1), saw[some].reshape(-1)
    return {
        "auc": intervals.over_batches(np.array(areas)) if areas else None,
        "found_at_1_percent_false_alarms": membership.audit_hits(*pooled)
        if areas
        else None,
    }


def _steps(run: Run, plan: Plan, options: Options) -> dict[str, int]:
    """For how many steps each kind of single model is trained."""
    own = run.config.training.steps
    return {
        "single_equal_steps": options.steps or own,
        "single_equal_compute": plan.codes.n_members * own,
    }


def _folder(run: Run, seed: int, steps: int) -> Path:
    return run.evaluation / "single" / f"steps-{steps}-seed-{seed}"


def _single(
    run: Run, pipe: EnsemblePipeline, plan: Plan, seed: int, steps: int
) -> EnsemblePipeline:
    """A pipeline of one model that was trained on everything."""
    given, folder = SplitsConfig(retraining.GIVEN, 1), _folder(run, seed, steps)
    everything = np.ones((plan.codes.n_sources, 1), dtype=bool)
    wanted = retraining.config(run, folder, given, seed, steps)
    trained = retraining.train(plan, everything, wanted)
    single = EnsemblePipeline.from_pretrained(trained.path)
    single.set_progress_bar_config(disable=True)
    return single.to(pipe.members.device)


def _examples(pipe: EnsemblePipeline, plan: Plan, chosen: np.ndarray) -> Examples:
    labels = None if plan.data.labels is None else plan.data.labels[chosen]
    images = queries.on_device(pipe, plan.data.images[chosen])
    keys = torch.from_numpy(chosen).to(images.device)
    return Examples(images, pipe.members.condition(labels), keys)


def _flat(pictures: Pictures) -> np.ndarray:
    return pictures.reshape(len(pictures), -1)

"""Queries: generated images whose sources are asked for.

A query is a noise seed and, for conditional members, a label. Its picture by the full
ensemble is kept, so that every later stage speaks of the same picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from ensemble.models.conditioning import Condition
from ensemble.run import files, manifest, records, table_records
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from ensemble.sampling.arguments import N_SEEDS
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.trajectory import denoise, initial_noise, query_generators
from ensemble.system import locks
from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class Queries:
    """Seeds, conditions and what the full ensemble made of them.

    Attributes:
        seeds: Noise seed of each query.
        conditions: Label of each query; None for unconditional members.
        images: Pictures by the full ensemble, around [-1, 1], not clipped.
        held_out: They are given images, to which no noise leads.
    """

    seeds: Int64[np.ndarray, " queries"]
    conditions: Int64[np.ndarray, " queries"] | None
    images: Float32[np.ndarray, "queries channels height width"]
    held_out: bool = False

    def facts(self) -> dict[str, Any]:
        """What goes on record of whatever is made of these queries."""
        return table_records.query_facts(self.images, self.seeds, self.conditions)

    def noise(
        self, pipe: EnsemblePipeline
    ) -> Float[Tensor, "queries channels height width"]:
        """The noise that each query starts from.

        Raises:
            BadInput: If the queries are held out.
        """
        require_noise(self)
        generators = query_generators(self.seeds.tolist())
        return initial_noise(pipe.members, generators, len(self.seeds))

    def generators(
        self, pipe: EnsemblePipeline, of_query: Int[np.ndarray, " images"]
    ) -> list[torch.Generator]:
        """A generator for each image, as it stands once its noise has been drawn.

        Raises:
            BadInput: If the queries are held out.
        """
        require_noise(self)
        states = {}
        for query in np.unique(of_query).tolist():
            (generator,) = query_generators(self.seeds[query : query + 1])
            initial_noise(pipe.members, [generator], 1)
            states[query] = generator.get_state()
        return [
            torch.Generator().set_state(states[query]) for query in of_query.tolist()
        ]

    def condition(self, pipe: EnsemblePipeline) -> Condition:
        """Labels as the members are told them."""
        labels = None if self.conditions is None else self.conditions.tolist()
        return pipe.condition(labels, len(self.seeds))


def generate(
    run: Run,
    pipe: EnsemblePipeline,
    name: str,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
) -> Queries:
    """Generate queries with the full ensemble and keep them under a name.

    Conditional members are asked for every label in turn, unless labels are given.

    Raises:
        BadInput: If it is no name of queries, a seed is none, or other queries have
            that name already.
    """
    _require_seeds(seeds)
    if pipe.members.no_label is not None and labels is None:
        labels = [number % pipe.members.no_label for number in range(len(seeds))]
    wanted = {
        "seeds": [int(seed) for seed in seeds],
        "labels": None if labels is None else [int(label) for label in labels],
        **sampler_of(pipe),
    }
    with locks.exclusive(run.queries(name)):
        if run.queries(name).exists():
            found = _unchanged(run, name, wanted)
            manifest.note_stage(run, f"generate {name}")
            return found
        _generate(run, pipe, name, {**wanted, **drawn_by(run, pipe)})
    return load(run, name)


def _require_seeds(seeds: Sequence[int]) -> None:
    """Refuse what cannot be kept as noise seeds, before anything is drawn.

    Raises:
        BadInput: If there is none, or one is negative or too large.
    """
    if not len(seeds):
        raise BadInput("There are no seeds: give one for each query.")
    for seed in seeds:
        if not 0 <= int(seed) < N_SEEDS:
            raise BadInput(
                f"A query's noise cannot have the seed {seed}; allowed: 0 up to, not "
                f"with, {N_SEEDS}."
            )


def drawn_by(run: Run, pipe: EnsemblePipeline) -> dict[str, Any]:
    """What goes on record of the members that draw: their codes and their weights.

    Raises:
        BadInput: If the pipeline was not loaded from a run folder.
    """
    return membership_of(run, pipe).facts()


def membership_of(run: Run, pipe: EnsemblePipeline) -> Membership:
    """Whose weights a pipeline has.

    Raises:
        BadInput: If it was not loaded from a run folder, so that nobody knows.
    """
    known = pipe.membership
    if known is None:
        raise BadInput(
            f"This pipeline was not loaded from {run.path}, so it is not known whose "
            "weights it has. Load it with EnsemblePipeline.from_pretrained."
        )
    return known


def sampler_of(pipe: EnsemblePipeline) -> dict[str, Any]:
    """What goes on record of how a pipeline samples."""
    sampling = pipe.sampling()
    return {
        "n_steps": sampling.n_steps,
        "guidance_scale": sampling.guidance_scale,
        "scheduler": type(sampling.scheduler).__name__,
    }


def require_sampler(run: Run, name: str, pipe: EnsemblePipeline) -> None:
    """Refuse to sample queries again by another sampler than made them.

    Raises:
        BadInput: If the pipeline has another one.
    """
    folder = run.queries(name)
    if (folder / "info.json").exists():
        info = files.read_json(folder / "info.json")
        remedy = "Set the pipeline back, or generate queries under another name."
        table_records.require_same(folder, info, sampler_of(pipe), remedy)


def _generate(run: Run, pipe: EnsemblePipeline, name: str, wanted: dict) -> None:
    folder, seeds, labels = run.queries(name), wanted["seeds"], wanted["labels"]
    with (
        manifest.stage(run, f"generate {name}"),
        files.atomic_folder(folder) as to,
    ):
        before = pipe.members.n_forwards
        images = pipe.pictures(seeds, labels)
        files.write_array(to / "seeds.npy", np.asarray(seeds, dtype=np.int64))
        if labels is not None:
            files.write_array(to / "conditions.npy", np.asarray(labels, np.int64))
        files.write_array(to / "images.npy", images.cpu().float().numpy())
        done = {**wanted, "member_forwards": pipe.members.n_forwards - before}
        records.write_done_mark(to, "info.json", done)


def load(run: Run, name: str, membership: Membership | None = None) -> Queries:
    """The queries of that name.

    Args:
        run: The run folder.
        name: What they are called.
        membership: The members that must have made them; None: those that may vote now.

    Raises:
        BadInput: If there are none, they are damaged, or other members made them than
            those, such as silenced ones.
    """
    folder = run.queries(name)
    if not folder.exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/info.json"))
        raise BadInput(
            f"There are no queries called {name!r} in {run.path}; known: "
            f"{', '.join(known) or 'none'}. Make some with `attribute.py {run.path} "
            f"generate --name {name}`."
        )
    info = records.check_done_mark(folder, "info.json")
    if not info.get("held_out", False):
        known = membership or Membership.read(run.path)
        known.require_made(folder, info)
    labelled = "conditions.npy" in info["files"]
    return Queries(
        seeds=files.read_array(folder / "seeds.npy"),
        conditions=files.read_array(folder / "conditions.npy") if labelled else None,
        images=files.read_array(folder / "images.npy"),
        held_out=info.get("held_out", False),
    )


def require_noise(asked: Queries) -> None:
    """Refuse queries that were not generated.

    Raises:
        BadInput: If they are held out.
    """
    if asked.held_out:
        raise BadInput(
            "Held-out queries are given images: no noise leads to them, so they cannot "
            "be sampled again, and no ablation of pictures says anything about them. "
            "Score them (`attribute.py RUN score`), ask for the influence on their loss "
            "(`ensemble.evaluation.held_out.ablate`), or generate queries."
        )


def ablated_pictures(
    pipe: EnsemblePipeline,
    queries: Queries,
    of_query: Int[np.ndarray, " images"],
    votes: Float64[np.ndarray, "images members"],
) -> Float[Tensor, "images channels height width"]:
    """Sample queries again with other votes and the same noise.

    Args:
        pipe: The ensemble.
        queries: What is sampled again.
        of_query: The query that each image is of.
        votes: The votes of each image.

    Returns:
        The pictures, not clipped.
    """
    chosen, state_of = np.unique(of_query, return_inverse=True)
    device = pipe.members.device
    condition = queries.condition(pipe)
    steps = denoise(
        pipe.members,
        pipe.sampling(),
        queries.noise(pipe)[torch.from_numpy(chosen)].to(device),
        torch.from_numpy(votes).to(device, pipe.members.dtype),
        condition[torch.from_numpy(chosen).to(device)],
        queries.generators(pipe, of_query),
        torch.from_numpy(state_of).to(device),
    )
    with torch.no_grad():
        *_, (_, _, images) = steps
    return images


def sampled_again(
    pipe: EnsemblePipeline, asked: Queries, votes: Float64[np.ndarray, " members"]
) -> Float32[np.ndarray, "queries channels height width"]:
    """Every query from its own noise once more, by other votes; not clipped.

    Raises:
        BadInput: If the queries are held out.
    """
    require_noise(asked)
    every = np.arange(len(asked.seeds))
    images = ablated_pictures(pipe, asked, every, np.tile(votes, (len(every), 1)))
    return images.cpu().float().numpy()


def distance(
    pictures: Float[np.ndarray, "*#leading channels height width"],
    others: Float[np.ndarray, "*#leading channels height width"],
) -> Float64[np.ndarray, "*#leading"]:
    """Root mean squared difference of pixels, in units of [-1, 1]."""
    squares = np.square(pictures - others, dtype=np.float64)
    return np.sqrt(squares.mean(axis=(-3, -2, -1)))


def _unchanged(run: Run, name: str, wanted: dict) -> Queries:
    folder = run.queries(name)
    info = files.read_json(folder / "info.json")
    for key, value in wanted.items():
        if info[key] != value:
            also = [str(path) for path in table_records.results_on(run, name)]
            its_own = f", and with it what was made of it: {', '.join(also)}"
            raise BadInput(
                f"Queries {name!r} exist with another {key}: {info[key]}, asked for "
                f"{value}. Choose another --name, or delete {folder}"
                f"{its_own if also else ''}."
            )
    return load(run, name)


def on_device(pipe: EnsemblePipeline, images: np.ndarray) -> Tensor:
    """Images as a tensor where the members are."""
    return torch.from_numpy(images).to(pipe.members.device, pipe.members.dtype)

"""A run folder as all stages leave it, of numbers that were chosen, without torch.

Query 0 has one source above placebo (source 5), query 1 none, and query 2 two.
"""

from pathlib import Path

import numpy as np

from ensemble.data.datasets import TrainingImages
from ensemble.run import config_file, files, manifest, records
from ensemble.run.folder import Run, create
from splits import guarantees
from splits.codes import CodeBook

ABOVE = {0: [5], 1: [], 2: [1, 2]}
MEASUREMENTS = {"brightness": "mean pixel", "denoising_loss": "how badly it denoises"}


def images(n_images: int = 12, channels: int = 1, side: int = 8) -> TrainingImages:
    """Random pictures of three classes; no phone has room for the first one's name."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (n_images, channels, side, side)).astype(np.float32)
    labels = np.arange(n_images) % 3
    names = ("cat" * 30, "dog", "owl")
    return TrainingImages(
        images=pixels,
        labels=labels,
        label_names=names,
        columns={"label": tuple(names[label] for label in labels)},
        names=tuple(f"image {index:04d}.png" for index in range(n_images)),
    )


def trained(
    folder: Path,
    data: TrainingImages,
    source_of: np.ndarray | None = None,
    names: list[str] | None = None,
    n_members: int = 6,
) -> Run:
    """Plan, code book, members and queries; nothing ablated yet."""
    run = create(config_file.from_dict({"run": str(folder)}))
    if source_of is None:
        source_of = np.arange(len(data.images))
    n_sources = int(source_of.max()) + 1
    order = np.random.default_rng(1).random((n_sources, n_members)).argsort(axis=1)
    codes = CodeBook(order < n_members // 2)
    files.write_array(run.codes, codes.bits)
    files.write_array(run.source_of, source_of)
    numbered = [str(source) for source in range(n_sources)]
    files.write_json(run.path / "sources.json", {"names": names or numbered})
    facts = {
        "data_fingerprint": data.fingerprint(),
        "code_book_digest": codes.digest(),
        "n_images": len(data.images),
        "n_sources": n_sources,
        "n_members": n_members,
        "promises": guarantees.count_guarantees(codes),
    }
    manifest.start_manifest(run, facts)
    for member in range(n_members):
        _member(run, member)
    with manifest.stage(run, "train"):
        pass
    return run


def _member(run: Run, member: int) -> None:
    steps = list(range(20, 220, 20))
    facts = {
        "member": member,
        "n_sources": 6,
        "images_seen": 14_080,
        "seconds": 31.25,
        "peak_memory_bytes": 5_000_000 + member,
        "finished": f"2026-01-02T03:{member:02d}:00+00:00",
        "seed": 0,
        "loss_curve": {"steps": steps, "loss": [20 / step for step in steps]},
        "weights_sha256": "ab" * 32,
    }
    files.write_json(run.member(member) / "member.json", facts)


def asked(
    run: Run, data: TrainingImages, n_queries: int = 3, name: str = "demo"
) -> Run:
    """The run with queries."""
    folder = run.queries(name)
    files.write_array(folder / "seeds.npy", 40 + np.arange(n_queries))
    files.write_array(folder / "conditions.npy", np.arange(n_queries) % 3)
    files.write_array(folder / "images.npy", data.images[:n_queries] / 2)
    facts = {"scheduler": "DDIMScheduler", "n_steps": 50, "guidance_scale": 1.0}
    records.write_done_mark(folder, "info.json", facts)
    return run


def given(run: Run, data: TrainingImages, name: str = "mine") -> Run:
    """The run with three given pictures as queries, and their losses."""
    folder = run.queries(name)
    files.write_array(folder / "seeds.npy", 1_000_000_000 + np.arange(3))
    files.write_array(folder / "images.npy", data.images[:3] / 2)
    records.write_done_mark(folder, "info.json", {"held_out": True, "seeds": []})
    to = run.influence(name)
    n_sources = len(files.read_array(run.codes))
    table = np.tile(np.arange(n_sources) / -1000, (3, 1)).astype(np.float32)
    files.write_array(to / "influence_denoising_loss.npy", table)
    records.write_done_mark(to, "info.json", {"method": "exact", "units": "sources"})
    return run


def ablated(
    run: Run,
    folder: str = "demo",
    groups: dict[str, list[int]] | None = None,
    n_top: int = 3,
    n_placebos: int = 40,
    **changes: object,
) -> Run:
    """The run with what ablation measured on its queries `demo`.

    The folder is one in `influence/demo`; or what version 0.1 called it, in `influence`.
    """
    pictures = records.checked_array(run.queries("demo"), "info.json", "images.npy")
    n_queries = len(pictures)
    n_units = len(groups) if groups else len(files.read_array(run.codes))
    rng = np.random.default_rng(2)
    placebo = rng.uniform(0.3, 0.5, (n_queries, n_placebos)).astype(np.float32)
    displacement = np.tile(np.linspace(0.3, 0.4, n_units), (n_queries, 1))
    p_values = np.ones((n_queries, n_units))
    for query in range(n_queries):
        above = [unit for unit in ABOVE[query % 3] if unit < n_units]
        displacement[query, above] = 0.9 - 0.05 * np.arange(len(above))
        p_values[query, above] = 0.0123
    top = np.argsort(-displacement, axis=1)[:, :n_top]
    # The more a unit displaces, the darker the picture is without it.
    strength = np.take_along_axis(displacement, top, axis=1)[:, :, None, None, None]
    arrays = {
        "displacement": displacement.astype(np.float32),
        "placebo": placebo,
        "excess": (displacement - 0.4).astype(np.float32),
        "p_values": p_values,
        "top_units": top,
        "top_images": (pictures[:, None] - strength).astype(np.float32),
        "influence_brightness": (displacement / 10).astype(np.float32),
        "influence_denoising_loss": (-displacement / 100).astype(np.float32),
    }
    # What begins with `demo` is as version 0.1 left it.
    old = folder.startswith("demo")
    to = run.influence(folder) if old else run.influence("demo") / folder
    for name, array in arrays.items():
        files.write_array(to / f"{name}.npy", array)
    info = {
        "method": "differential" if "differential" in folder else "exact",
        "units": "groups" if groups else "sources",
        "unit_names": list(groups) if groups else None,
        "group_sources": list(groups.values()) if groups else None,
        "n_placebos": n_placebos,
        "smallest_p": 0.01,
        "threshold": 0.05,
        "unattributable": np.flatnonzero(p_values.min(axis=1) > 0.05).tolist(),
        "measurements": list(MEASUREMENTS),
        "measurement_sentences": MEASUREMENTS,
        "seconds": 74.25,
        "member_forwards": 12_345,
    }
    records.write_done_mark(to, "info.json", {**info, **changes})
    return run


def run(folder: Path, data: TrainingImages) -> Run:
    """Everything that the report can show about sources."""
    return ablated(asked(trained(folder, data), data))

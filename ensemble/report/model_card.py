"""The model card: what a run is, for people who find its folder."""

import textwrap

from ensemble.run import files
from ensemble.run.folder import Run


def member_seconds(run: Run) -> float:
    """Seconds that training took, summed over members."""
    return round(sum(record["seconds"] for record in run.member_records()), 3)


def model_card(run: Run) -> str:
    """The text of the run folder's README.md."""
    manifest = files.read_json(run.manifest)
    settings = run.config
    return textwrap.dedent(
        f"""\
        ---
        library_name: diffusers
        tags: [encoded-ensemble, data-attribution, diffusion]
        ---
        # {run.path.name}

        An encoded ensemble: {manifest["n_members"]} diffusion models, each trained on
        part of {manifest["n_sources"]} sources of data ({manifest["n_images"]} images).
        Silencing the members that saw a source gives the picture as it would be without
        that source.

        ```python
        from ensemble import EnsemblePipeline

        pipe = EnsemblePipeline.from_pretrained("PATH/OF/THIS/FOLDER")
        picture = pipe(seeds=[0]).images[0]
        without = pipe(seeds=[0], ablate=[3]).images[0]
        ```

        | | |
        |---|---|
        | data | {settings.data.kind}, sha256 {manifest["data_fingerprint"]} |
        | one source is | {settings.data.source} |
        | design | {settings.splits.design}, seed {settings.splits.seed} |
        | code book | sha256 {manifest["code_book_digest"]} |
        | training | {settings.training.steps} steps, batches of \
{settings.training.batch_size}, seed {settings.training.seed} |
        | commit | {manifest["commit"]} |
        | licence | that of the training data; the code is Apache-2.0 |

        Check the promise with `python attribute.py PATH/OF/THIS/FOLDER verify`.
        """
    )

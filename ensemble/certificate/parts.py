"""The table of parts of a run that the certificate checks.

One line of `PARTS` for each part. A part looks at the run folder and yields what it
found: a sentence that it has just checked, a contradiction with its remedy, or what was
not checked. A new part of a model (a base, an autoencoder, a text encoder) is one file
here and one line there.
"""

from ensemble.certificate import ablated, codes, images, members, model, origin
from ensemble.certificate.subject import Part

PARTS: tuple[Part, ...] = (
    Part("members", members.records),
    Part("origin", origin.origin),
    Part("exposure", members.exposure),
    Part("identical images", images.identical),
    Part("average", model.average),
    Part("data mapping", images.mapping),
    Part("labels", model.labels),
    Part("objective", model.objective),
    Part("code book", codes.code_book),
    Part("clusters", codes.clusters),
    Part("earlier run", members.earlier),
    Part("pipeline", model.pipeline),
    Part("draws", model.draws),
    Part("network", model.network),
    Part("starts", members.starts),
    Part("weights", members.shared_weights),
    Part("removals", members.removals),
    Part("near-duplicates", images.near),
)
# This check loads all members, so it only runs if nothing contradicts their records.
LAST = Part("ablation", ablated.ablated)

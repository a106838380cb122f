"""From a plan to trained members, resumable at any instant."""

from splits import renamed

__getattr__ = renamed.attributes(
    __name__,
    "ensemble.training.trainer",
    "ensemble.training.members",
    "ensemble.training.process",
    "ensemble.training.optimization",
    "ensemble.training.description",
    "ensemble.run.folder",
    other_names={"Trainee": "MemberTrainer", "Progress": "TrainState"},
)

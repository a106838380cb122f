"""Scorers: the literature's predictions of influence behind one interface.

A scorer may not see the ablations that it is compared with, so nothing here imports
`ensemble.ablation`. To add a scorer, write a module in `methods/` that is named after
author, year and method, and add a line to `SCORERS` below.
"""

from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import (
    READOUTS,
    Examples,
    MemberSamples,
    SamplingTrajectory,
    Scorer,
    ScoringContext,
    SupportsDampingPath,
    SupportsUncertainty,
    Work,
    by_source,
)
from ensemble.scorers.methods.controls import Constant, Random
from ensemble.scorers.methods.georgiev2023journey import JourneyTrak
from ensemble.scorers.methods.ilyas2022datamodels import Datamodel, EmpiricalInfluence
from ensemble.scorers.methods.lin2025das import Das, VectorDas
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from ensemble.scorers.methods.park2023trak import (
    DTrak,
    RelativeInfluence,
    RenormalisedInfluence,
    Trak,
)
from ensemble.scorers.methods.pruthi2020tracin import (
    Gas,
    GradientCosine,
    GradientDot,
    TracIn,
)
from ensemble.scorers.methods.similarity import (
    ComponentCosine,
    FeatureCosine,
    PixelCosine,
    PixelDot,
)
from ensemble.scorers.methods.wang2024unlearning import Unlearning
from ensemble.scorers.posterior.posterior import (
    PRIORS_OF_DISPLACEMENT,
    PRIORS_OF_ENSEMBLE,
    Posterior,
)

__all__ = [
    "READOUTS",
    "SCORERS",
    "MemberSamples",
    "SupportsDampingPath",
    "Examples",
    "SamplingTrajectory",
    "Scorer",
    "ScoringContext",
    "SupportsUncertainty",
    "Work",
    "by_source",
]

SCORERS: dict[str, Scorer] = {
    "random": Random(),
    "constant": Constant(),
    "pixel_dot": PixelDot(),
    "pixel_cosine": PixelCosine(),
    "component_cosine": ComponentCosine(),
    "feature_cosine": FeatureCosine(),
    "empirical_influence": EmpiricalInfluence(),
    "ridge_datamodel": Datamodel(penalty="ridge"),
    "lasso_datamodel": Datamodel(penalty="lasso"),
    "gradient_dot": GradientDot(),
    "gradient_cosine": GradientCosine(),
    "tracin": TracIn(),
    "gas": Gas(),
    "relative_influence": RelativeInfluence(),
    "renormalised_influence": RenormalisedInfluence(),
    "trak": Trak(),
    "journey_trak": JourneyTrak(),
    "dtrak": DTrak(),
    "dtrak_mean": DTrak(Feature(output="mean")),
    "dtrak_l1": DTrak(Feature(output="l1_norm")),
    "dtrak_l2": DTrak(Feature(output="l2_norm")),
    "dtrak_linf": DTrak(Feature(output="linf_norm")),
    "dtrak_weighted": DTrak(Feature(output="weighted_loss")),
    "das": Das(),
    "das_vector": VectorDas(),
    "ekfac": InfluenceFunction(),
    "ekfac_all": InfluenceFunction(unseen=True),
    "ekfac_elbo": InfluenceFunction("simplified_elbo"),
    "ekfac_norm": InfluenceFunction("squared_norm"),
    "kfac": InfluenceFunction(curvature=Curvature("kfac")),
    "unlearning": Unlearning(),
    "unlearning_ekfac": Unlearning(step_size=0.1, curvature=Curvature()),
    "unlearning_all": Unlearning(
        step_size=0.1,
        curvature=Curvature(damping=0.01),
        query_draws=Draws(n_timesteps=16),
        draws=Draws(n_timesteps=4),
        unseen=True,
    ),
    "posterior": Posterior(),
    "posterior_ensemble": Posterior(priors=PRIORS_OF_ENSEMBLE),
    "posterior_displacement": Posterior(
        measured="displacement", priors=PRIORS_OF_DISPLACEMENT
    ),
}

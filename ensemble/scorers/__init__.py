"""Scorers: the literature's predictions of influence behind one interface.

A scorer may not see the truth that it is judged by: nothing here imports ablation or
influence. To add one, write a module named after author, year and method, and one line
in the table below.

Before: queries.py, plan.py. After: ensemble/scoring.py.
"""

from ensemble.scorers.barshan2020relatif import RelativeInfluence
from ensemble.scorers.charpiat2019similarity import GradientCosine, GradientDot
from ensemble.scorers.controls import Constant, Random
from ensemble.scorers.curvature import Curvature
from ensemble.scorers.features import Feature
from ensemble.scorers.feldman2020influence import EmpiricalInfluence
from ensemble.scorers.georgiev2023journey import JourneyTrak
from ensemble.scorers.gradients import Draws
from ensemble.scorers.hammoudeh2022gas import Gas
from ensemble.scorers.hammoudeh2022renormalised import RenormalisedInfluence
from ensemble.scorers.ilyas2022datamodels import Datamodel
from ensemble.scorers.lin2025das import Das
from ensemble.scorers.lin2025das_vector import VectorDas
from ensemble.scorers.mlodozeniec2025influence import InfluenceFunction
from ensemble.scorers.park2023trak import Trak
from ensemble.scorers.posterior import (
    PRIORS_OF_DISPLACEMENT,
    PRIORS_OF_ENSEMBLE,
    Posterior,
)
from ensemble.scorers.pruthi2020tracin import TracIn
from ensemble.scorers.setting import (
    READOUTS,
    Alone,
    Damped,
    Examples,
    Journey,
    Scorer,
    Setting,
    Uncertain,
    Work,
    by_source,
)
from ensemble.scorers.similarity import (
    ComponentCosine,
    FeatureCosine,
    PixelCosine,
    PixelDot,
)
from ensemble.scorers.wang2024unlearning import Unlearning
from ensemble.scorers.zheng2024dtrak import DTrak

__all__ = [
    "READOUTS",
    "SCORERS",
    "Alone",
    "Damped",
    "Examples",
    "Journey",
    "Scorer",
    "Setting",
    "Uncertain",
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

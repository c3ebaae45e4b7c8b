"""The method in pure torch: divergences, noise processes, one objective, and sixteen methods as rows of one table."""

from .divergences import DIVERGENCES, Divergence, divergence_from_callable, get_divergence
from .methods import METHODS, GuidanceScales, Method, get_method
from .objective import GRADIENTS, ObjectiveConfig, ObjectiveOutput, objective
from .process import (
    PARAMETERISATIONS,
    ContinuousVP,
    DiscreteVP,
    NoiseProcess,
    VarianceExploding,
    from_x0,
    per_sample,
    to_x0,
)
from .scale import GradientScale, classifier_free, rescale_guidance
from .timesteps import SAMPLERS, Schedule, TimeSample, TimeSampler
from .weighting import WEIGHTINGS

__all__ = [
    "DIVERGENCES",
    "GRADIENTS",
    "METHODS",
    "PARAMETERISATIONS",
    "SAMPLERS",
    "WEIGHTINGS",
    "ContinuousVP",
    "DiscreteVP",
    "Divergence",
    "GradientScale",
    "GuidanceScales",
    "Method",
    "NoiseProcess",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "Schedule",
    "TimeSample",
    "TimeSampler",
    "VarianceExploding",
    "classifier_free",
    "divergence_from_callable",
    "from_x0",
    "get_divergence",
    "get_method",
    "objective",
    "per_sample",
    "rescale_guidance",
    "to_x0",
]

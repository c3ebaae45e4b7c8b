"""The method in pure torch: divergences, noise processes, one objective, and sixteen methods as rows of one table."""

from .auxiliary import data_fidelity_loss, regression_loss, reward_loss
from .by_parts import check_by_parts
from .divergences import DIVERGENCES, Divergence, divergence_from_callable, get_divergence
from .fake_score import DENOISING_WEIGHTS, denoising_loss, reference_score
from .gradients import GRADIENTS
from .methods import METHODS, GuidanceScales, Method, get_method
from .objective import ObjectiveConfig, ObjectiveOutput, objective
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
from .ratio import (
    POOR_SLOPE,
    CalibrationReport,
    RatioWarmup,
    calibration,
    critic_slope,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    poor_calibration,
)
from .scale import GradientScale, classifier_free, perpendicular_negative, rescale_guidance
from .timesteps import SAMPLERS, LevelSlopes, Schedule, TimeSample, TimeSampler
from .weighting import WEIGHTINGS

__all__ = [
    "DENOISING_WEIGHTS",
    "DIVERGENCES",
    "GRADIENTS",
    "METHODS",
    "PARAMETERISATIONS",
    "POOR_SLOPE",
    "SAMPLERS",
    "WEIGHTINGS",
    "CalibrationReport",
    "ContinuousVP",
    "DiscreteVP",
    "Divergence",
    "GradientScale",
    "GuidanceScales",
    "LevelSlopes",
    "Method",
    "NoiseProcess",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "RatioWarmup",
    "Schedule",
    "TimeSample",
    "TimeSampler",
    "VarianceExploding",
    "calibration",
    "check_by_parts",
    "classifier_free",
    "critic_slope",
    "data_fidelity_loss",
    "denoising_loss",
    "discriminator_loss",
    "divergence_from_callable",
    "from_x0",
    "generator_loss",
    "get_divergence",
    "get_method",
    "gradient_penalty",
    "objective",
    "per_sample",
    "perpendicular_negative",
    "poor_calibration",
    "reference_score",
    "regression_loss",
    "rescale_guidance",
    "reward_loss",
    "to_x0",
]

"""Sixteen methods as rows of one table: data that one objective runs.

A row says whose score stands for the student (`fake_score`), which gradient is taken, how noise levels are weighted,
and what is added. A new method is one row and its test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import choose, require_known
from .gradients import GRADIENTS
from .objective import RANGES as OBJECTIVE_RANGES
from .objective import ObjectiveConfig
from .ranges import Allowed, check, number, or_null, whole

# Whose score is s_p: the conditional one of the drawn noise, an adapter on the teacher, a full copy of it, or the
# teacher itself on a reference image and prompt (with the same noise).
FAKE_SCORES = ("conditional", "lora", "full", "teacher_reference")

# What may be added to the gradient, and what each addition needs from the caller.
AUXILIARY = {
    "gan": "a discriminator on noisy samples, trained against real or teacher samples",
    "regression": "pairs of noise and the teacher's ODE output",
    "data_fidelity": "a measurement y and its operator A",
    "reward": "a differentiable reward of the clean sample",
}

# Numbers among a row's options, see ranges.py; the entries of a schedule are options too.
GUIDANCE_RANGES = {"teacher": number(least=0), "fake": number(least=0), "fake_train": number(least=0)}
RANGES = {
    **OBJECTIVE_RANGES,
    **{f"guidance_{name}": row for name, row in GUIDANCE_RANGES.items()},
    "auxiliary": {"*": or_null(number(least=0))},
    "fake_updates": whole(least=1),
    "schedule": Allowed("a mapping {step: {option: value}} with steps from 0 on", lambda value: _is_schedule(value)),
}
OWN_NUMBERS = ("auxiliary", "fake_updates", "guidance")


def _is_schedule(value: Any) -> bool:
    """As a configuration or as a row writes it."""
    entries = value.items() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else None
    return entries is not None and all(
        isinstance(entry, tuple) and len(entry) == 2 and str(entry[0]).isdigit() and isinstance(entry[1], Mapping)
        for entry in entries
    )


@dataclass(frozen=True)
class GuidanceScales:
    """Classifier-free guidance of each score; 1 is the plain conditional score.

    Attributes:
        teacher: of the teacher's x̂0.
        fake: of the fake score's x̂0 in the objective.
        fake_train: in the fake score's own denoising loss (long-short guidance trains it guided).
    """

    teacher: float = 1.0
    fake: float = 1.0
    fake_train: float = 1.0


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name, title, task: short name, name in words, what it is for.
        fake_score: one of `FAKE_SCORES`.
        objective: the estimator.
        guidance: classifier-free guidance scales.
        auxiliary: additions and their weights (keys of `AUXILIARY`).
        fake_updates: updates of fake score and discriminator per student update.
        schedule: ((from_step, overrides), ...): from that step on, `at` applies the overrides (later ones add up).
    """

    name: str
    title: str
    task: str
    fake_score: str
    objective: ObjectiveConfig
    guidance: GuidanceScales = field(default_factory=GuidanceScales)
    auxiliary: Mapping[str, float] = field(default_factory=dict)
    fake_updates: int = 1
    schedule: tuple[tuple[int, Mapping[str, Any]], ...] = ()

    def __post_init__(self):
        choose("fake_score", self.fake_score, dict.fromkeys(FAKE_SCORES))
        require_known("auxiliary", self.auxiliary, AUXILIARY)
        check({**RANGES, "guidance": GUIDANCE_RANGES}, {name: getattr(self, name) for name in OWN_NUMBERS})
        if self.fake_score == "conditional" and GRADIENTS[self.objective.gradient].needs_marginal_score:
            raise ValueError(
                f"gradient={self.objective.gradient!r} needs a learned fake score; with fake_score='conditional' "
                "choose gradient='di'"
            )
        steps = [step for step, _ in self.schedule]
        if steps != sorted(set(steps)) or any(step < 0 for step in steps):
            raise ValueError(f"schedule steps must increase from 0, got {steps}")
        for _, overrides in self.schedule:
            dataclasses.replace(self, schedule=()).replace(**overrides)

    @property
    def needs_discriminator(self) -> bool:
        """Whether any stage reads the density ratio or has an adversarial term."""
        stages = [self, *(self.at(step) for step, _ in self.schedule)]
        return any(stage.objective.needs_ratio or stage.auxiliary.get("gan") for stage in stages)

    @property
    def learns_fake_score(self) -> bool:
        """Whether a fake score is trained at all."""
        return self.fake_score in ("lora", "full")

    def at(self, step: int) -> Method:
        """The method in force at a training step, its schedule resolved."""
        now = dataclasses.replace(self, schedule=())
        for start, overrides in self.schedule:
            if step >= start:
                now = now.replace(**overrides)
        return now

    def replace(self, **overrides: Any) -> Method:
        """A copy with options changed; keys are fields of Method, ObjectiveConfig or GuidanceScales (`guidance_*`).

        `auxiliary` adds to or replaces single entries (weight 0 removes one); `schedule` is {step: {option: value}}.
        Example: `get_method("uni_instruct").replace(divergence="jkl", kappa=1.0, guidance_teacher=7.5)`.
        """
        require_known(f"method {self.name!r}", overrides, OPTIONS)
        own, estimator, scales = {}, {}, {}
        for key, value in overrides.items():
            if key in _OBJECTIVE_FIELDS:
                estimator[key] = value
            elif key.startswith("guidance_"):
                scales[key.removeprefix("guidance_")] = value
            else:
                own[key] = value
        if "auxiliary" in own:
            merged = {**self.auxiliary, **own["auxiliary"]}
            own["auxiliary"] = {name: weight for name, weight in merged.items() if weight}
        if isinstance(own.get("schedule"), Mapping):
            own["schedule"] = tuple((int(step), dict(changes)) for step, changes in own["schedule"].items())
        return dataclasses.replace(
            self,
            objective=self.objective.replace(**estimator),
            guidance=dataclasses.replace(self.guidance, **scales),
            **own,
        )


_OBJECTIVE_FIELDS = tuple(field.name for field in dataclasses.fields(ObjectiveConfig))
OPTIONS = (
    *_OBJECTIVE_FIELDS,
    *(f"guidance_{field.name}" for field in dataclasses.fields(GuidanceScales)),
    *("fake_score", "auxiliary", "fake_updates", "schedule"),
)


def _di(**options) -> ObjectiveConfig:
    return ObjectiveConfig(gradient="di", jacobian="none", **options)


def _sid(**options) -> ObjectiveConfig:
    """SiD's α = 1.2 is κ = 2(1 − α) = −0.4."""
    return ObjectiveConfig(gradient="exact", weighting="x0_normalised", **{"kappa": -0.4, **options})


# fmt: off
_ROWS = (
    Method("sds", "Score distillation sampling", "text-to-3D", "conditional", _di(weighting="sigma2"),
           GuidanceScales(teacher=100.0)),
    Method("dds", "Delta denoising score", "image editing", "teacher_reference", _di(weighting="sigma2"),
           GuidanceScales(teacher=7.5, fake=7.5)),
    Method("vsd", "Variational score distillation", "text-to-3D", "lora", _di(weighting="sigma2"),
           GuidanceScales(teacher=7.5)),
    Method("diff_instruct", "Diff-Instruct", "one-step generation", "full", _di()),
    Method("swiftbrush", "SwiftBrush", "one-step text-to-image", "lora", _di(weighting="sigma2"),
           GuidanceScales(teacher=4.5)),
    Method("dmd", "Distribution matching distillation", "one-step generation", "full", _di(weighting="x0_normalised"),
           auxiliary={"regression": 0.25}),
    Method("dmd2", "Improved DMD", "one-step generation", "full", _di(weighting="x0_normalised"),
           auxiliary={"gan": 1e-3}, fake_updates=5),
    Method("red_diff", "RED-diff", "inverse problems", "conditional", _di(weighting="x0"),
           auxiliary={"data_fidelity": 1.0}),
    Method("sim", "Score implicit matching", "one-step generation", "full",
           ObjectiveConfig(gradient="exact", weighting="x0", distance="pseudo_huber")),
    Method("sid", "Score identity distillation", "one-step generation", "full", _sid()),
    Method("sida", "Adversarial SiD", "one-step generation", "full", _sid(), auxiliary={"gan": 1e-2}),
    Method("sid_lsg", "SiD with long-short guidance", "one-step text-to-image", "full", _sid(kappa=0.0),
           GuidanceScales(teacher=1.5, fake=1.5, fake_train=1.5)),
    Method("f_distill", "f-distill", "one-step generation", "full",
           ObjectiveConfig("js", "di_weighted", jacobian="none", batch_normalise=True), auxiliary={"gan": 1e-3}),
    Method("di_pp", "Diff-Instruct++", "preference alignment", "full", _di(), auxiliary={"reward": 1.0}),
    Method("di_star", "Diff-Instruct*", "preference alignment", "full",
           ObjectiveConfig(gradient="exact", weighting="x0", distance="pseudo_huber"), auxiliary={"reward": 1.0}),
    Method("uni_instruct", "Uni-Instruct", "one-step generation and text-to-3D", "full",
           ObjectiveConfig(gradient="paper"), auxiliary={"gan": 1e-2}),
)
# fmt: on

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def get_method(name: str, **overrides: Any) -> Method:
    """A row by name, with `Method.replace(**overrides)` applied; an unknown name lists the choices."""
    method = choose("method", name, METHODS)
    return method.replace(**overrides) if overrides else method

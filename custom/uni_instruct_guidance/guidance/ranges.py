"""What the numbers of the guidances' blocks may be; the mechanism is in core/ranges.py, the method's rows in core/."""

from __future__ import annotations

from ..core.methods import METHODS
from ..core.methods import RANGES as METHOD
from ..core.ranges import Table, choice, number, or_null, scheduled, text, whole
from ..core.scale import SCALE_MODES
from ..core.timesteps import SAMPLERS
from ..teachers.discriminator import RANGES as DISCRIMINATOR
from ..teachers.stable_diffusion.fake_score import RANGES as FAKE_SCORE
from .bank import RANGES as BANK

COUNT, STEPS, SCALE = whole(least=1), whole(least=0), number(least=0)
FRACTION = scheduled(number(least=0, most=1))

TEACHER = text("a folder or a hub id")  # empty: none, which is enough to render and export

WARMUP = {"steps": STEPS, "guidance_scale": SCALE, "method": choice(*METHODS)}
GRADIENT = {"scale": choice(*SCALE_MODES), "target": number(above=0), "max_ratio": SCALE}

# Null leaves a number as the method's row has it.
GUIDANCE: Table = {
    **{key: row if isinstance(row, dict) else or_null(row) for key, row in METHOD.items()},
    "pretrained_model_name_or_path": TEACHER,
    "pretrained_model_name_or_path_lora": TEACHER,
    "bank_dir": text("a folder", lambda name: not name),
    "guidance_scale": or_null(scheduled(SCALE)),
    "guidance_rescale": number(least=0, most=1),
    "grad_clip": or_null(scheduled(number(above=0))),
    "min_step_percent": FRACTION,
    "max_step_percent": FRACTION,
    "time_sampler": choice(*SAMPLERS),
    "max_rejected_steps": COUNT,
    "warmup": WARMUP,
    "gradient_size": GRADIENT,
    "discriminator": DISCRIMINATOR,
    "fake_score": FAKE_SCORE,
    "bank": BANK,
    # the stock guidances'
    "max_items_eval": COUNT,
    "trainer_max_steps": COUNT,
    "guidance_scale_lora": SCALE,
    "lora_n_timestamp_samples": COUNT,
}

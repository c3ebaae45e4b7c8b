"""What the numbers of a configuration may be: threestudio's own fields and ours, by the key that a user writes.

The host asks before anything is built (`check_config`); what is built from Python alone asks for its own block. Types
and unknown keys are the host's to find; this table is about sizes. The mechanism is in core/ranges.py.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..core.ranges import (
    TRAINER,
    Allowed,
    Table,
    ascending,
    check,
    choice,
    either,
    file_name,
    number,
    one_or_several,
    or_null,
    scheduled,
    several,
    text,
    whole,
)
from ..guidance.config import check_guidance
from ..guidance.ranges import GUIDANCE, TEACHER

COUNT, STEPS, SIZE, SHARE = whole(least=1), whole(least=0), number(above=0), number(least=0, most=1)
ANGLE, COLOUR = number(least=0, most=180), several(number(), 3)
DECAY = number(least=0, below=1)
# What no machine holds is a slip of the finger, and would end in a message about memory.
PIXELS, SAMPLES, WIDTH, CELLS = (whole(least=1, most=1 << bits) for bits in (14, 16, 16, 12))
VIEWS = whole(least=1, most=64)
LENGTH, SHIFT = number(above=0, most=10**6), number(least=0, most=10**6)

DATA = {
    "height": one_or_several(PIXELS),
    "width": one_or_several(PIXELS),
    "batch_size": one_or_several(SAMPLES),
    "resolution_milestones": several(COUNT),
    "eval_height": PIXELS,
    "eval_width": PIXELS,
    "eval_batch_size": SAMPLES,
    "n_val_views": SAMPLES,
    "n_test_views": SAMPLES,
    "elevation_range": ascending(number(least=-90, most=90)),
    "azimuth_range": ascending(number(least=-360, most=360)),
    "camera_distance_range": ascending(LENGTH),
    "fovy_range": ascending(number(above=0, below=180)),
    "light_distance_range": ascending(LENGTH),
    "camera_perturb": SHIFT,
    "center_perturb": SHIFT,
    "up_perturb": SHIFT,
    "light_position_perturb": SHIFT,
    "eval_elevation_deg": number(least=-90, most=90),
    "eval_camera_distance": LENGTH,
    "eval_fovy_deg": number(above=0, below=180),
    "progressive_until": STEPS,
    "n_view": VIEWS,
    "zoom_range": ascending(number(above=0, most=10)),
}

ENCODING = {
    "n_levels": whole(least=1, most=64),
    "n_features_per_level": whole(least=1, most=64),
    "log2_hashmap_size": whole(least=1, most=30),
    "base_resolution": CELLS,
    "per_level_scale": number(least=1, most=16),
    "n_frequencies": whole(least=1, most=64),
    "n_masking_step": STEPS,
    "start_level": STEPS,
    "start_step": STEPS,
    "update_steps": COUNT,
    "degree": COUNT,
    "init_std": number(least=0),
}
# threestudio's own, and those of torch.nn.functional that take one tensor: it would take any name of that module.
ACTIVATIONS = (
    *("none", "lin2srgb", "exp", "shifted_exp", "trunc_exp", "shifted_trunc_exp", "sigmoid", "tanh"),
    *("shifted_softplus", "scale_-11_01", "softplus", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu"),
    *("silu", "mish", "hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "softsign"),
)
ACTIVATION = or_null(
    Allowed(f"one of {', '.join(ACTIVATIONS)}", lambda name: isinstance(name, str) and name.lower() in ACTIVATIONS)
)
NETWORK = {"n_neurons": WIDTH, "n_hidden_layers": whole(least=0, most=256), "output_activation": ACTIVATION}

GEOMETRY = {
    "radius": LENGTH,
    "isosurface_resolution": whole(least=2, most=2048),
    "isosurface_threshold": either(number(), text()),
    "isosurface_chunk": STEPS,
    "isosurface_outlier_n_faces_threshold": number(least=0),
    "n_input_dims": WIDTH,
    "n_feature_dims": whole(least=0, most=1 << 16),
    "grid_size": several(whole(least=2, most=2048), 3),
    "density_activation": ACTIVATION,
    "density_bias": either(number(), text()),
    "density_blob_scale": number(),
    "density_blob_std": SIZE,
    "finite_difference_normal_eps": either(SIZE, text()),
    "anneal_density_blob_std_config": {
        "min_anneal_step": STEPS,
        "max_anneal_step": STEPS,
        "start_val": SIZE,
        "end_val": SIZE,
    },
    "shape_init_params": or_null(one_or_several(SIZE)),
    "sdf_bias": either(number(), text()),
    "sdf_bias_params": or_null(one_or_several(SIZE)),
    "pos_encoding_config": ENCODING,
    "mlp_network_config": NETWORK,
}

MATERIAL = {
    "color_activation": ACTIVATION,
    "albedo_activation": ACTIVATION,
    "material_activation": ACTIVATION,
    "n_output_dims": whole(least=0, most=1 << 16),
    "environment_scale": number(least=0),
    "min_metallic": SHARE,
    "max_metallic": SHARE,
    "min_roughness": SHARE,
    "max_roughness": SHARE,
    "input_feature_dims": or_null(WIDTH),
    "ambient_light_color": COLOUR,
    "diffuse_light_color": COLOUR,
    "ambient_only_steps": STEPS,
    "diffuse_prob": SHARE,
    "textureless_prob": SHARE,
    "mlp_network_config": NETWORK,
}

BACKGROUND = {
    "color_activation": ACTIVATION,
    "n_output_dims": WIDTH,
    "color": several(number(), least=1),
    "eval_color": or_null(COLOUR),
    "random_aug_prob": SHARE,
    "darkest": SHARE,
    "brightest": SHARE,
    "coloured": SHARE,
    "evaluation": or_null(SHARE),
    "n_view": VIEWS,
    "dir_encoding_config": ENCODING,
    "mlp_network_config": NETWORK,
}

CONTEXT = choice("gl", "cuda")
RENDERER = {
    "radius": LENGTH,
    "num_samples_per_ray": SAMPLES,
    "eval_chunk_size": STEPS,
    "near_plane": number(least=0),
    "far_plane": SIZE,
    "num_samples_per_ray_proposal": SAMPLES,
    "num_samples_per_ray_importance": SAMPLES,
    "supersample": whole(least=1, most=16),
    "context_type": CONTEXT,
}

PROMPTS = {
    "pretrained_model_name_or_path": TEACHER,
    "overhead_threshold": ANGLE,
    "front_threshold": ANGLE,
    "back_threshold": ANGLE,
    "perp_neg_f_*": several(number(), 3),
    "prompt_debiasing_mask_ids": or_null(several(STEPS)),
}

EXPORTER = {
    "texture_size": whole(least=1, most=1 << 14),
    "texture_format": choice("jpg", "jpeg", "png"),
    "save_name": file_name(),
    "context_type": CONTEXT,
}

OPTIMIZER = {
    "lr": number(least=0),
    "betas": several(DECAY, 2),
    "eps": number(least=0),
    "weight_decay": number(least=0),
    "momentum": number(least=0),
    "alpha": number(least=0),
}

SYSTEM = {
    "geometry": GEOMETRY,
    "geometry_convert_override": GEOMETRY,
    "material": MATERIAL,
    "background": BACKGROUND,
    "renderer": RENDERER,
    "prompt_processor": PROMPTS,
    "guidance": GUIDANCE,
    "exporter": EXPORTER,
    "loss": {"lambda_*": scheduled(number(least=0))},
    "optimizer": {"args": {**OPTIMIZER, "lr": SIZE}, "params": {"*": OPTIMIZER}},
    "max_skipped_steps": COUNT,
}

CHECKPOINT = {
    "filename": or_null(file_name()),
    "every_n_train_steps": or_null(STEPS),
    "every_n_epochs": or_null(STEPS),
    "save_top_k": whole(least=-1),
    "save_last": or_null(choice(True, False, "link")),
}

CONFIG: Table = {
    "seed": whole(least=0, most=2**32 - 1),
    "data": DATA,
    "system": SYSTEM,
    "trainer": TRAINER,
    "checkpoint": CHECKPOINT,
}


def check_config(cfg: Any) -> None:
    """Refuse a configuration with a value that makes no sense; missing and unknown keys pass.

    Args:
        cfg: the whole configuration as it was given, resolved.

    Raises:
        ValueError: key, value and what is allowed.
    """
    plain = _plain(cfg)
    check(CONFIG, plain)
    system = plain.get("system") or {}
    if system.get("guidance_type") == "uni-instruct-guidance" and isinstance(system.get("guidance"), dict):
        check_guidance(system["guidance"], with_reference=bool(system.get("reference")))


def check_system(cfg: Any) -> None:
    """The same for a system built without the host's launcher."""
    check(SYSTEM, _plain(cfg), "system.")


def _plain(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg, throw_on_missing=False) if isinstance(cfg, DictConfig) else cfg

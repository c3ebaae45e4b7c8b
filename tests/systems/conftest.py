"""A tiny text-to-3D run: tiny random teacher, 8x8 pictures, a coarse grid, prompts without a text encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import threestudio

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))

from prompt_stub import StubPrompts

from threestudio.utils.base import BaseObject


class StubPromptProcessor(BaseObject):
    """Random embeddings in place of a text encoder."""

    def __call__(self):
        return StubPrompts(16)


if "stub-prompt-processor" not in threestudio.__modules__:
    threestudio.register("stub-prompt-processor")(StubPromptProcessor)


@pytest.fixture
def tiny_system_config(tiny_teacher, tmp_path):
    """Configuration of `uni-instruct-system`, without the prompt's ???."""
    return {
        "geometry_type": "implicit-volume",
        "geometry": {
            "radius": 0.7,
            "normal_type": None,
            "density_bias": "blob_magic3d",
            "density_blob_std": 0.35,
            "pos_encoding_config": {"otype": "DenseGridPyramid", "n_levels": 2, "base_resolution": 4, "init_std": 0.1},
            "mlp_network_config": {"otype": "VanillaMLP", "activation": "ReLU", "output_activation": "none",
                                   "n_neurons": 8, "n_hidden_layers": 1},
        },
        "material_type": "no-material",
        "background_type": "solid-color-background",
        "renderer_type": "nerf-volume-renderer",
        "renderer": {"radius": 0.7, "num_samples_per_ray": 16},
        "prompt_processor_type": "stub-prompt-processor",
        "guidance_type": "uni-instruct-guidance",
        "guidance": {
            "pretrained_model_name_or_path": str(tiny_teacher),
            "half_precision_weights": False,
            "divergence": "fkl",
            "bank": {"size": 2, "steps": 2},
            "bank_dir": str(tmp_path / "bank"),
        },
        "loss": {"lambda_uni_instruct": 1.0, "lambda_fake_score": 1.0, "lambda_discriminator": 1.0,
                 "lambda_sparsity": 0.1, "lambda_opaque": 0.0},
        "optimizer": {"name": "AdamW", "args": {"betas": [0.9, 0.99], "eps": 1e-15},
                      "params": {"geometry": {"lr": 0.01}, "guidance": {"lr": 0.001}}},
    }  # fmt: skip

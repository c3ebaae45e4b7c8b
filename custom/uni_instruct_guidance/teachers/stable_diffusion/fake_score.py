"""What learns: LoRA on the teacher's U-Net or a full copy of it; the fake score of 3D, fake score and student of 2D."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core.errors import choose
from ...core.fake_score import DENOISING_WEIGHTS
from ...core.ranges import check, choice, number, or_null, whole
from .camera import CAMERA_ENCODINGS, TEACHERS_OWN, CameraEmbedding
from .multi_view import attend, require_cameras, require_groups
from .teacher import Teacher, unshared_skeleton
from .unet_features import captured_features, feature_channels, run_encoder

# Groups of layers LoRA can be put on -> name endings in diffusers' U-Nets.
LORA_TARGETS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "feedforward": ["ff.net.0.proj", "ff.net.2"],
    "conv": ["conv1", "conv2", "conv_shortcut", "conv_in"],
    "time": ["time_emb_proj", "linear_1", "linear_2"],
}


@dataclass
class FakeScoreConfig:
    """How the student's score is learned.

    rank, alpha: LoRA rank and scale numerator (scale = alpha / rank).
    targets: groups of layers, see LORA_TARGETS.
    camera_condition: none | extrinsics (c2w) | mvp | spherical; added to the time embedding, starts at zero. teacher:
        as a multi-view teacher is told it, through that teacher's own layers, which hear zeros with none.
    view_dependent_prompt: train and ask it with the view's prompt (true) or the plain prompt (upstream VSD: false).
    updates_per_step: updates of fake score and discriminator per step of the 3D model (None: as the method's row says).
    guidance_scale: classifier-free guidance of the fake score when it answers (None: the row's; 1: none).
    cfg_train: guidance scale inside its own training loss (long-short guidance; None: the row's; 1: none).
    batch: noise levels drawn per rendered latent in one update.
    init: how it starts, a row of INITS: quiet (exactly the teacher, small steps first) | threestudio (its VSD's: LoRA's
        inner weights several times larger, and a camera layer at random).
    contrast: what its own guidance is measured against, one of CONTRASTS: text (the empty prompt) | camera (none).
    camera_dropout: share of updates in which it is not told the camera (all zeros).
    weighting: of its loss over noise levels, a row of the core's denoising weights; auto: its own parameterisation's
        mean squared error.
    base: model that it starts from, a folder or hub id (None: the teacher).
    shared_pass: whether the evaluation that the objective asks for also trains it and the discriminator's student half:
        never (passes of their own; its loss at every noise level) | always (at the objective's noise levels alone) |
        mixed (every second step). With `batch` > 1 the further levels have passes of their own.
    """

    rank: int = 4
    alpha: float = 4.0
    targets: list[str] = field(default_factory=lambda: ["attention"])
    camera_condition: str = "extrinsics"
    view_dependent_prompt: bool = True
    updates_per_step: int | None = None
    guidance_scale: float | None = None
    cfg_train: float | None = None
    batch: int = 1
    init: str = "quiet"
    contrast: str = "text"
    camera_dropout: float = 0.0
    weighting: str = "epsilon"
    base: str | None = None
    shared_pass: str = "never"


# init -> (peft's init_lora_weights, whether the camera's last layer starts at zero).
INITS = {"quiet": (True, True), "threestudio": ("gaussian", False)}
CONTRASTS = ("text", "camera")


# Numbers of a FakeScoreConfig, see core/ranges.py.
RANGES = {
    "rank": whole(least=1, most=1 << 14),
    "alpha": number(above=0),
    "updates_per_step": or_null(whole(least=1)),
    "guidance_scale": or_null(number(least=0)),
    "cfg_train": or_null(number(least=0)),
    "batch": whole(least=1, most=1 << 14),
    "camera_dropout": number(least=0, most=1),
    "camera_condition": choice(*CAMERA_ENCODINGS),
    "init": choice(*INITS),
    "contrast": choice(*CONTRASTS),
    "weighting": choice("auto", *DENOISING_WEIGHTS),
}


class FakeScore(nn.Module):
    """Learned denoiser of the renderings with a state_dict that holds only what is learned.

    Args:
        teacher: gives the U-Net to start from and the x0 contract (with `cfg.base` another model than the guidance's).
        kind: "lora" or "full".
        cfg: see FakeScoreConfig.
    """

    def __init__(self, teacher: Teacher, kind: str, cfg: FakeScoreConfig) -> None:
        super().__init__()
        if kind not in BUILDERS:
            raise ValueError(f"fake score kind {kind!r}; choices: {list(BUILDERS)}")
        check(RANGES, cfg, "fake_score.")
        _check_camera(cfg.camera_condition, teacher)
        if cfg.contrast == "camera" and cfg.camera_condition == "none":
            raise ValueError("fake_score.contrast 'camera' needs a camera_condition")
        self.weighting = teacher.prediction_type if cfg.weighting == "auto" else cfg.weighting
        choose("prediction_type of the fake score's model", self.weighting, DENOISING_WEIGHTS)
        self.teacher, self.kind, self.cfg = teacher, kind, cfg
        unet, self.learned = BUILDERS[kind](teacher, cfg)
        self._unet = [unet]  # in a list: hidden from nn.Module, so shared frozen weights stay out of state_dict
        if CAMERA_ENCODINGS[cfg.camera_condition] is not None:
            width = unet.time_embedding.linear_2.out_features
            self.camera = CameraEmbedding(
                CAMERA_ENCODINGS[cfg.camera_condition], width, starts_at_zero=INITS[cfg.init][1]
            ).to(teacher.device)
            unet.class_embedding = self.camera
        else:
            self.camera = None

    @property
    def unet(self) -> nn.Module:
        return self._unet[0]

    def _call(self, run, x_t, t, text, camera):
        """Run under autocast where the weights are half: learned weights stay in float32."""
        half = self.teacher.dtype != torch.float32
        context = torch.autocast(x_t.device.type, dtype=self.teacher.dtype) if half else nullcontext()
        labels = None
        if self.teacher.n_views > 1:
            if self.cfg.camera_condition == "none":  # its layers are the network's own, so they hear zeros
                camera = x_t.new_zeros(len(x_t), self.teacher.view_width)
            require_cameras(camera, self.teacher.name)
            require_groups(len(x_t), self.teacher.n_views)
            labels = camera.to(self.teacher.dtype)
        elif self.camera is not None:
            if camera is None:
                raise ValueError(f"fake_score.camera_condition {self.cfg.camera_condition!r} needs cameras, got none")
            labels = camera
        with context:
            return run(
                x_t.to(self.teacher.dtype), t, encoder_hidden_states=text.to(self.teacher.dtype), class_labels=labels
            )

    def forward(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "B L D"],
        camera: Float[Tensor, "B K"] | None = None,
        features: list[str] = (),
    ) -> tuple[Float[Tensor, "B C h w"], dict[str, Tensor]]:
        """x0 in float32 and the named encoder features, from one pass."""
        with captured_features(self.unet, list(features)) as captured:
            output = self._call(self.unet, x_t, t, text, camera).sample.float()
        return self.teacher.to_x0(output, x_t, t), dict(captured)

    # --- the contract of what trains (teachers/contract.py) ---------------------------------------------------------

    def denoise(self, x_t, t, condition, features=()) -> tuple[Tensor, dict[str, Tensor]]:
        """x̂0 and the named features of the same pass; `condition` is the text."""
        return self(x_t, t, condition, None, list(features))

    def read_features(self, x_t, t, condition, features) -> dict[str, Tensor]:
        """The features without the decoder."""
        return self.encode(x_t, t, condition, None, list(features))

    def feature_widths(self) -> dict[str, int]:
        """Encoder blocks and their channels."""
        return feature_channels(self.unet)

    def twin(self) -> FakeScore:
        """Another one with the same weights over the same teacher."""
        twin = FakeScore(self.teacher, self.kind, self.cfg)
        twin.load_state_dict(self.state_dict())
        return twin

    def compile_parts(self) -> None:
        """torch.compile of the U-Net."""
        self.unet.compile()

    # --- with cameras -----------------------------------------------------------------------------------------------

    def encode(self, x_t, t, text, camera=None, features: list[str] = ("mid",)) -> dict[str, Tensor]:
        """Encoder features alone (no decoder)."""
        return self._call(lambda *a, **k: run_encoder(self.unet, list(features), *a, **k), x_t, t, text, camera)


def _check_camera(name: str, teacher: Teacher) -> None:
    """A multi-view teacher is told the camera already; others have no layers for it."""
    groups = ["none", TEACHERS_OWN]
    choices = groups if teacher.n_views > 1 else [row for row in CAMERA_ENCODINGS if row != TEACHERS_OWN]
    if name not in choices:
        raise ValueError(
            f"fake_score.camera_condition {name!r} with teacher {teacher.name!r} of {teacher.n_views} views; "
            f"choices: {choices}"
        )


def _build_lora(teacher: Teacher, cfg: FakeScoreConfig) -> tuple[nn.Module, nn.Module]:
    """LoRA layers on a second skeleton over the teacher's weights: nothing to switch off, no extra memory."""
    from peft import LoraConfig, inject_adapter_in_model

    unknown = sorted(set(cfg.targets) - set(LORA_TARGETS))
    if unknown or not cfg.targets:
        raise ValueError(f"fake_score.targets {list(cfg.targets)}; choices: {list(LORA_TARGETS)}")
    unet = unshared_skeleton(teacher.unet)
    endings = [ending for group in cfg.targets for ending in LORA_TARGETS[group]]
    adapter = LoraConfig(r=cfg.rank, lora_alpha=cfg.alpha, target_modules=endings, init_lora_weights=INITS[cfg.init][0])
    unet = inject_adapter_in_model(adapter, unet)
    for layer in unet.modules():
        if hasattr(layer, "lora_A"):
            # under autocast peft's way to LoRA's float32 ends in half precision again: two copies for the same numbers
            layer.cast_input_dtype_enabled = False
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # Parameter names may not contain dots in a ParameterDict.
    learned = {name.replace(".", "/"): p for name, p in unet.named_parameters() if p.requires_grad}
    return unet, nn.ParameterDict(learned)


def _build_full(teacher: Teacher, cfg: FakeScoreConfig) -> tuple[nn.Module, nn.Module]:
    """A trainable float32 copy of the whole U-Net."""
    unet = copy.deepcopy(teacher.unet).float().requires_grad_(True)
    attend(unet, teacher.n_views)
    if teacher.device.type == "cpu" and teacher.dtype == torch.bfloat16:
        unet.to(memory_format=torch.channels_last)  # a tenth faster there; in float32 it makes no difference
    return unet, unet


BUILDERS = {"lora": _build_lora, "full": _build_full}

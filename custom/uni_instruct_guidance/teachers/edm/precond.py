"""EDM preconditioning (Karras et al. 2022, Table 1): a U-Net F becomes a denoiser D(x; σ) = x̂0.

D(x; σ) = c_skip x + c_out F(c_in x; c_noise)
c_skip = σ_data² / (σ² + σ_data²)      c_out = σ σ_data / √(σ² + σ_data²)
c_in   = 1 / √(σ² + σ_data²)           c_noise = ¼ ln σ
"""

from __future__ import annotations

from copy import deepcopy
from math import inf, isinf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...core.errors import choose, require_shape
from ...core.process import per_sample
from .architectures import DhariwalUNet, SongUNet
from .unet import Encoded

UNETS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class EDMPrecond(nn.Module):
    """Denoiser x̂0 = D(x; σ, label).

    Args:
        img_resolution, img_channels: of the pictures, which are square and lie in [−1, 1].
        label_dim: classes; 0 for an unconditional network.
        use_fp16: the U-Net computes in half precision on CUDA; parameters, x and x̂0 stay float32.
        sigma_min, sigma_max: noise levels the network is meant for (not enforced).
        sigma_data: standard deviation of the data.
        model_type: SongUNet | DhariwalUNet.
        model_kwargs: arguments of the U-Net.

    Attributes:
        config: all arguments, ready for JSON; `build_network(net.config)` makes the same network.
        feature_channels, feature_resolution: shape [C', h, h] of the bottleneck features.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        unet = choose("model_type", model_type, UNETS)
        self.config = {
            "img_resolution": img_resolution, "img_channels": img_channels, "label_dim": label_dim,
            "use_fp16": use_fp16, "sigma_min": sigma_min, "sigma_max": sigma_max, "sigma_data": sigma_data,
            "model_type": model_type, **model_kwargs,
        }  # fmt: skip
        if isinf(sigma_max):
            del self.config["sigma_max"]  # the default, which JSON cannot write
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.use_fp16, self.sigma_min, self.sigma_max, self.sigma_data = use_fp16, sigma_min, sigma_max, sigma_data
        self.model = unet(img_resolution, img_channels, img_channels, label_dim=label_dim, **model_kwargs)

    @property
    def feature_channels(self) -> int:
        """Channels of the bottleneck features."""
        return self.model.feature_channels

    @property
    def feature_resolution(self) -> int:
        """Height and width of the bottleneck features."""
        return self.model.resolutions[-1]

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_labels: Float[Tensor, "B K"] | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """x̂0 of the noisy `x` at noise level `sigma` ([B] or one value); one-hot `class_labels` if label_dim > 0."""
        return self.forward_with_features(x, sigma, class_labels, augment_labels)[0]

    def forward_with_features(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_labels: Float[Tensor, "B K"] | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B F h w"]]:
        """x̂0 and the bottleneck features of the same pass."""
        encoded = self._encode(x, sigma, class_labels, augment_labels)
        output = self.model.decode(encoded)
        x = x.to(_full(x.dtype))
        sigma = per_sample(sigma.to(x.dtype), x)
        norm2 = sigma.square() + self.sigma_data**2
        x0 = (self.sigma_data**2 / norm2) * x + (sigma * self.sigma_data * norm2.rsqrt()) * output.to(x.dtype)
        return x0, encoded.skips[-1]

    def encode_features(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], class_labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B F h w"]:
        """The bottleneck features alone: the decoder, the larger half, does not run."""
        return self._encode(x, sigma, class_labels, None).skips[-1]

    # --- the contract of what trains (teachers/contract.py) ---------------------------------------------------------

    def denoise(self, x_t, t, condition=None, features=()) -> tuple[Tensor, dict[str, Tensor]]:
        """x̂0 and the named features of the same pass."""
        x0, deepest = self.forward_with_features(x_t, t, condition)
        return x0, dict.fromkeys(features, deepest)

    def read_features(self, x_t, t, condition=None, features=("mid",)) -> dict[str, Tensor]:
        """The features without the decoder."""
        return dict.fromkeys(features, self.encode_features(x_t, t, condition))

    def feature_widths(self) -> dict[str, int]:
        """The bottleneck is the one feature there is."""
        return {"mid": self.feature_channels}

    def twin(self) -> EDMPrecond:
        """A copy of network and weights."""
        return deepcopy(self)

    def compile_parts(self) -> None:
        """torch.compile of both halves; parameter names stay."""
        self.model.encode = torch.compile(self.model.encode)
        self.model.decode = torch.compile(self.model.decode)

    def _encode(self, x, sigma, class_labels, augment_labels) -> Encoded:
        require_shape("x", x, (x.shape[0], self.img_channels, self.img_resolution, self.img_resolution))
        dtype = _full(x.dtype)
        sigma = sigma.to(dtype).reshape(-1)
        if sigma.shape[0] not in (1, x.shape[0]):
            raise ValueError(f"sigma has {sigma.shape[0]} values for {x.shape[0]} pictures; give one each, or one")
        if (class_labels is None) == bool(self.label_dim):
            wanted = f"one-hot labels of width {self.label_dim}" if self.label_dim else "None (unconditional network)"
            raise ValueError(f"class_labels={'None' if class_labels is None else 'a tensor'}; expected {wanted}")
        if class_labels is not None:
            require_shape("class_labels", class_labels, (x.shape[0], self.label_dim))
            class_labels = class_labels.to(dtype)
        c_in = per_sample((sigma.square() + self.sigma_data**2).rsqrt(), x)
        half = self.use_fp16 and x.device.type == "cuda"
        scaled = (c_in * x.to(dtype)).to(torch.float16 if half else dtype)
        return self.model.encode(scaled, sigma.log() / 4, class_labels, augment_labels)


def _full(dtype: torch.dtype) -> torch.dtype:
    """float64 stays (for tests of gradients), everything narrower becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32

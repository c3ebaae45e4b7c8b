"""envlight's interface: light from a picture of the sphere; :mod:`backends.environment_light` says what is blurrier."""

from __future__ import annotations

from torch import Tensor

from backends.environment_light import EnvironmentLight

__all__ = ["EnvLight"]


class EnvLight(EnvironmentLight):
    """Called with directions [..., 3]: what a matt white surface facing there sends back; with ``roughness`` [..., 1]:
    what is mirrored from there.

    Args:
        path: Radiance .hdr picture. scale: factor on it.
        device: where it lives.

    Raises:
        ValueError: no picture, or options of envlight that the twin lacks.
    """

    def __init__(self, path: str | None = None, device=None, scale: float = 1.0, trainable: bool = False, **_) -> None:
        if path is None or trainable:
            raise ValueError("a light that is made or trained without a picture needs envlight itself, and CUDA")
        super().__init__(path, scale)
        if device is not None:
            self.to(device)

    def forward(self, l: Tensor, roughness: Tensor | None = None) -> Tensor:
        flat = l.reshape(-1, 3)
        light = self.diffuse(flat) if roughness is None else self.specular(flat, roughness.reshape(-1, 1))
        return light.view(l.shape)

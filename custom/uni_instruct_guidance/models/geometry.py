"""threestudio's density field and grid of tetrahedra with what our own configurations need beside the stock fields.

Built on the classes of whichever host runs, so that one YAML file means the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

import threestudio
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from threestudio.utils.ops import chunk_batch, scale_tensor

from .encoding import PYRAMID, PyramidEncoding
from .opacity_field import directions_above, pictured_level, visibility

#: Views that decide what is seen with ``surface: opacity``; undersides are rarely trained.
LOWEST_VIEW_DEG, N_VIEWS = -10.0, 48
#: Levels of the visibility that may become the surface; the one whose body has the pictures' silhouettes does. The
#: lowest is what the middle of a half-opaque sheet has: half of its optical depth lies before it. Below, leaves and
#: stems that a picture shows at up to three quarters would be lost. Above the highest it would lie in the next cell.
LEVELS = (0.5**0.5, 0.9, 20)
#: ``surface`` -> what it means.
SURFACES = {"opacity": "what the pictures show", "threshold": "the level isosurface_threshold of the density"}


def _pyramid() -> dict[str, Any]:
    return {"otype": PYRAMID, "n_levels": 4, "base_resolution": 8, "n_features_per_level": 4}


@threestudio.register("uni-instruct-volume")
class UniInstructVolume(PyramidEncoding, ImplicitVolume):
    """``implicit-volume`` on a dense pyramid, and with the surface that its pictures show.

    Args of :class:`Config` beyond the stock ones:
        surface: ``opacity``: a point is outside if some view from :data:`LOWEST_VIEW_DEG` upwards sees it, so walls of
            any density are closed, and what is hidden is solid; ``threshold``: stock, by ``isosurface_threshold``.
    """

    @dataclass
    class Config(ImplicitVolume.Config):
        pos_encoding_config: dict = field(default_factory=_pyramid)
        normal_type: str | None = None
        surface: str = "opacity"

    cfg: Config

    def configure(self) -> None:
        if self.cfg.surface not in SURFACES:
            raise ValueError(f"system.geometry.surface={self.cfg.surface}; choices: {', '.join(SURFACES)}")
        super().configure()
        self._box = None

    def _isosurface(self, bbox: Float[Tensor, "2 3"], fine_stage: bool = False):
        self._box = bbox
        return super()._isosurface(bbox, fine_stage)

    def forward_level(self, field: Float[Tensor, "N 1"], threshold: float) -> Float[Tensor, "N 1"]:
        """Negative inside."""
        if self.cfg.surface == "opacity" and self._box is not None:
            return self.seen_level(self._box)
        return super().forward_level(field, threshold)

    @torch.no_grad()
    def seen_level(self, bbox: Float[Tensor, "2 3"]) -> Float[Tensor, "N 1"]:
        """Level at the grid's vertices in ``bbox``: largest transmittance to any viewer, minus that of the surface.

        Raises:
            ValueError: every point can be seen.
        """
        n_nodes = self.cfg.isosurface_resolution + 1
        sides = [torch.linspace(float(low), float(high), n_nodes) for low, high in bbox.T]
        nodes = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).to(bbox)
        density = chunk_batch(self.forward_density, 1 << 16, nodes.reshape(-1, 3)).reshape(nodes.shape[:3])
        spacing = (bbox[1] - bbox[0]) / (n_nodes - 1)
        directions = directions_above(LOWEST_VIEW_DEG, N_VIEWS)
        seen = visibility(density.float(), spacing, directions)
        if not (seen < LEVELS[0]).any():
            raise ValueError(
                f"system.geometry.surface=opacity: nothing of the density, at most {density.max().item():.3g}, hides "
                "anything behind it; train longer, or choose surface=threshold and a low isosurface_threshold"
            )
        level = pictured_level(seen, density.float(), spacing, directions[::4], torch.linspace(*LEVELS).to(seen))
        threestudio.info(f"surface: seen by {level:.2f} of the light, as the pictures' silhouettes say")
        helper = self.isosurface_helper
        # grid_sample names the last axis first
        at = scale_tensor(helper.grid_vertices, helper.points_range, (-1, 1)).flip(-1)
        return F.grid_sample(seen[None, None], at.view(1, 1, 1, -1, 3), align_corners=True).view(-1, 1) - level


@threestudio.register("uni-instruct-tetrahedra")
class UniInstructTetrahedra(PyramidEncoding, TetrahedraSDFGrid):
    """``tetrahedra-sdf-grid`` whose features may lie on a dense pyramid, so that it can take over a volume's."""

    @dataclass
    class Config(TetrahedraSDFGrid.Config):
        pos_encoding_config: dict = field(default_factory=_pyramid)

    cfg: Config

    @staticmethod
    @torch.no_grad()
    def create_from(other: Any, cfg: Any = None, copy_net: bool = True, **kwargs) -> UniInstructTetrahedra:
        """New grid with ``cfg`` that starts from another one, or from the surface of a field, as the stock one does.

        Raises:
            TypeError: ``other`` is of another kind.
            ValueError: it has no surface, or does not fit ``cfg``.
        """
        values = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else dict(cfg or {})
        shape = TetrahedraSDFGrid.create_from(other, {**values, "geometry_only": True}, copy_net=False, **kwargs)
        instance = UniInstructTetrahedra(values, **kwargs).to(shape.sdf.device)
        for name, value in shape.state_dict().items():
            instance.get_parameter_or_buffer(name).copy_(value)
        if copy_net and not instance.cfg.geometry_only and hasattr(other, "feature_network"):
            for name in ("encoding", "feature_network"):
                _take_weights(instance, other, name)
        return instance

    def get_parameter_or_buffer(self, name: str) -> Tensor:
        """Parameter, or with ``fix_geometry`` buffer, of this name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}[name]


def _take_weights(instance: UniInstructTetrahedra, other: Any, name: str) -> None:
    try:
        instance.get_submodule(name).load_state_dict(other.get_submodule(name).state_dict())
    except RuntimeError as error:  # names or shapes differ
        raise ValueError(
            f"system.geometry.{name} does not fit the one it starts from: give pos_encoding_config, "
            f"mlp_network_config and n_feature_dims the same values ({str(error).splitlines()[-1].strip()})"
        ) from error

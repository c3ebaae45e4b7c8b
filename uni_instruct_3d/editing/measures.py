"""How near pictures come to what they should be."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


@torch.no_grad()
def quality(pictures: Float[Tensor, "B C H W"], truth: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
    """PSNR in dB and SSIM [B] each, of pictures in 0..1. SSIM's window is 11 pixels wide, or as wide as fits."""
    pairs = list(zip(pictures[:, None], truth[:, None]))
    window = min(11, 2 * ((pictures.shape[-1] - 1) // 2) - 1)
    psnr = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]
    ssim = [
        structural_similarity_index_measure(a, b, data_range=1.0, gaussian_kernel=False, kernel_size=window)
        if window < 11
        else structural_similarity_index_measure(a, b, data_range=1.0)
        for a, b in pairs
    ]
    return torch.stack(psnr), torch.stack(ssim)


def backdrop(picture: Float[np.ndarray, "H W 3"], foreground: Float[np.ndarray, "H W"]) -> np.ndarray:
    """The background behind an object, [H, W, 3]: a straight line from top to bottom, per channel."""
    rows = np.linspace(0, 1, len(picture))[:, None].repeat(picture.shape[1], 1)
    shown = foreground == 0
    lines = np.stack([rows[shown], np.ones(shown.sum())], 1)
    slope, level = np.linalg.lstsq(lines, picture[shown], rcond=None)[0]
    return rows[..., None] * slope + level


def silhouette(
    picture: Float[np.ndarray, "H W 3"], behind: Float[np.ndarray, "H W 3"], least: float = 0.08
) -> Bool[np.ndarray, "H W"]:
    """Where a picture differs from its background by more than `least` in any channel, holes filled."""
    return binary_fill_holes(np.abs(picture - behind).max(-1) > least)

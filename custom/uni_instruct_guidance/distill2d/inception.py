"""Inception-v3 features for FID and Inception score, from a weight file that the user has; nothing is downloaded.

The network and its preprocessing are torch-fidelity's (the TensorFlow graph of 2015-12-05, as FID is defined).
"""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import zipfile
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# First digits of the SHA-256 of torch-fidelity's published file, as its name carries them.
PUBLISHED_SHA256 = "6726825d"
PUBLISHED_NAME = f"weights-inception-2015-12-05-{PUBLISHED_SHA256}.pth"


def _load_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file; a pickle that holds anything else is not opened."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"inception weights {path} cannot be read as plain tensors: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"inception weights {path} hold {type(state).__name__}, expected a dictionary of tensors")
    return state


def load_inception(path: str | Path | None, device: torch.device | str = "cpu"):
    """torch-fidelity's extractor of `2048` pool features and `logits_unbiased`, frozen.

    Args:
        path: of the published `weights-inception-2015-12-05-6726825d.pth`, or of the same tensors as safetensors.

    Raises:
        FileNotFoundError, ValueError: no path, no file, not plain tensors, or other tensors than Inception's.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if path is None or not Path(path).is_file():
        raise FileNotFoundError(
            f"inception weights {str(path)!r} not found: give the path of torch-fidelity's {PUBLISHED_NAME}"
        )
    path = Path(path)
    state = _load_state(path)
    # The library opens its file with a full unpickler: it gets a copy that we wrote ourselves from checked tensors.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "inception.pth"
        torch.save(state, copy)
        try:
            extractor = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(copy))
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:160]
            raise ValueError(f"inception weights {path} are not those of Inception-v3: {detail}") from error
    return extractor.to(device)


def is_published(path: str | Path) -> bool:
    """Whether the file is the published one, bit for bit; other weights give figures that nothing compares with."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest().startswith(PUBLISHED_SHA256)


def to_uint8_rgb(images: Float[Tensor, "N C H W"]) -> Tensor:
    """[-1, 1] to 0 … 255 as EDM writes its images (truncated, after + 128); grey becomes RGB."""
    scaled = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled


@torch.no_grad()
def inception_features(extractor, images: Float[Tensor, "n C H W"]) -> tuple[Tensor, Tensor]:
    """(pool features [n, 2048], unbiased logits [n, 1008]) on the CPU."""
    device = next(extractor.parameters()).device
    features, logits = extractor(to_uint8_rgb(images).to(device))
    return features.cpu(), logits.cpu()

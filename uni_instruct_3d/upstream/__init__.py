"""threestudio itself as the host, on machines where its CUDA builds are missing."""

from .launcher import run_in_checkout

__all__ = ["run_in_checkout"]

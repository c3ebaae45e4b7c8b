"""Pure-torch twins of CUDA-only building blocks. Nothing here knows of threestudio."""

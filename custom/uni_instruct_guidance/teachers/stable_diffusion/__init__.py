"""Teachers in the diffusers Stable-Diffusion format: loading and checking, fake scores, features, cameras."""

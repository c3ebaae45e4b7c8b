"""Diffusion models that teach: Stable-Diffusion-format folders and EDM networks, and what is made from them."""

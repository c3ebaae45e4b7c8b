"""Uni-Instruct for threestudio: text-to-3D and one-step distillation with one f-divergence objective."""

"""One-step distillation of EDM teachers: networks, data, trainer, sampling and metrics; imports the core."""

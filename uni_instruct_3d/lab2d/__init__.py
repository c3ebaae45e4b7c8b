"""A laboratory in the plane: one-step generators against analytic mixtures, every method, on a CPU in minutes."""

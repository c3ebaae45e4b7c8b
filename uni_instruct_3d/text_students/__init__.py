"""One-step text-to-image students of the built-in teacher: many methods, one budget, measured like the teacher."""

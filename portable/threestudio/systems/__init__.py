"""Systems: what is trained, and how."""

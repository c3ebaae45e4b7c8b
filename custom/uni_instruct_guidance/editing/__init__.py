"""Pictures changed by a frozen teacher: editing by a pair of prompts, and inverse problems."""

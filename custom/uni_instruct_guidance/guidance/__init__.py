"""Teachers, fake scores, discriminator, sample bank, and the registered guidance."""

from . import uni_instruct

__all__ = ["uni_instruct"]

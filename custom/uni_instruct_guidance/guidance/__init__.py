"""Teachers, fake scores, discriminator, sample bank, and the registered guidance."""

from . import stock, uni_instruct

__all__ = ["stock", "uni_instruct"]

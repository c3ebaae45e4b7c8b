"""The host's logger. Only rank 0 speaks."""

from __future__ import annotations

import logging

from pytorch_lightning.utilities.rank_zero import rank_zero_only

logger = logging.getLogger("threestudio")


@rank_zero_only
def debug(message: str, *args) -> None:
    """Log for developers; shown with ``--verbose``."""
    logger.debug(message, *args)


@rank_zero_only
def info(message: str, *args) -> None:
    """Log what the user should know."""
    logger.info(message, *args)


@rank_zero_only
def warn(message: str, *args) -> None:
    """Log what the user should look into."""
    logger.warning(message, *args)

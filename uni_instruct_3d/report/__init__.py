"""One self-contained page per result: the object to turn, the turntable, and how every stage went."""

from .collect import StageResult, read_stage
from .page import write_report

__all__ = ["StageResult", "read_stage", "write_report"]

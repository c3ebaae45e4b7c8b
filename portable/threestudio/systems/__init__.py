"""Systems: what is trained, and how. Importing the package registers them."""

from . import dreamfusion, prolificdreamer

__all__ = ["dreamfusion", "prolificdreamer"]

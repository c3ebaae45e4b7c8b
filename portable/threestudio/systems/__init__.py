"""Systems: what is trained, and how. Importing the package registers them."""

from . import dreamfusion, fantasia3d, magic3d, prolificdreamer

__all__ = ["dreamfusion", "fantasia3d", "magic3d", "prolificdreamer"]

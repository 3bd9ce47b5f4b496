"""The one door to ``d2f_core``, which lies beside this package.

In the node pack both are parts of a package whose name ComfyUI chooses; installed by pip, each stands alone.
"""

if __package__ == "d2f_data":
    from d2f_core import *  # noqa: F403
else:
    from ..d2f_core import *  # noqa: F403

"""Diff2Flow Kit: turns diffusion checkpoints into flow matching models inside ComfyUI.

ComfyUI imports this file and calls ``comfy_entrypoint``. Without a host (tests of ``d2f_core``, tools)
the import does nothing.
"""

from importlib.util import find_spec

WEB_DIRECTORY = "./web"

if find_spec("comfy_api") is not None:

    async def comfy_entrypoint():
        """Called by ComfyUI to get the pack's nodes."""
        from .nodes import Diff2FlowExtension

        return Diff2FlowExtension()

"""What stands behind `dev.py`, for Linux, macOS and Windows.

What sets up ComfyUI and its environment is standard library only (`console`, `paths`, `host`, `env`, `browser`,
`tools`, `server`, `testing`, `matrix`); what talks to a running ComfyUI uses the libraries of that environment
(`client`, `demo`, `pictures`).

The repository root never goes on `sys.path` of a process that runs ComfyUI: the folder `nodes`
would hide ComfyUI's `nodes.py`.
"""

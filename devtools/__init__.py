"""What stands behind `dev.py`: standard library only, for Linux, macOS and Windows.

    console     one-sentence errors, progress lines, tables
    paths       where things lie: the shared cache, the checkout's working directory, links
    host        the pinned ComfyUI releases: download, check, unpack; or the user's own
    env         the Python environment: create, fill, repair
    tools       the ecosystem's checkers, in an environment of their own
    package     the archive that the registry hands out
    browser     a Chromium for the browser tests
    server      start and stop a real ComfyUI with the pack in it
    websocket   a small WebSocket client
    client      talk to a running ComfyUI: queue a graph, follow it, collect what it made
    workflow    a saved graph (what the editor saves) to a prompt (what the API takes)
    pack        import the pack or its core as a package, without touching `sys.path`
    demo        the demo command
    bench       the bench command
    testing     the test command

The repository root never goes on `sys.path` of a process that runs ComfyUI: the folder `nodes`
would hide ComfyUI's `nodes.py`.
"""

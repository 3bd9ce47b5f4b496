"""Run by tests in a process of its own: load packs into a ComfyUI as its server does, print what that changed.

    python loading_probe.py COMFYUI BASE [PACK ...]

The packs are loaded in this order, which the server leaves to the file system. What is printed, as JSON: `packs` has
for each pack its node ids, the modules it brought, the attributes of the host that it replaced, changes of `sys.path`,
web folders, samplers, schedulers, routes and folders; `nodes` has the definitions of all nodes at the end; `failed` the
packs that did not load.
"""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

HOST = ("comfy", "nodes", "server", "execution", "folder_paths", "latent_preview", "node_helpers", "app", "torch.nn")


def enter(host, base):
    """Import the host as its `main.py` does, without packs."""
    sys.argv = ["main.py", "--cpu", "--base-directory", base, "--disable-api-nodes"]
    sys.path[0] = host
    import comfy.options

    comfy.options.enable_args_parsing()
    importlib.import_module("utils.extra_config")  # as main.py does: later, hosts to 0.24 take comfy/utils.py for it
    import server

    import nodes

    asyncio.set_event_loop(asyncio.new_event_loop())
    server.PromptServer(asyncio.get_event_loop())
    run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def run(coroutine):
    return asyncio.get_event_loop().run_until_complete(coroutine)


def state():
    """What packs could change, by name."""
    import comfy.samplers
    import folder_paths
    import server

    import nodes

    routes = server.PromptServer.instance.routes
    return {
        "path": list(sys.path),
        "web": dict(nodes.EXTENSION_WEB_DIRS),
        "samplers": [*comfy.samplers.KSampler.SAMPLERS, *comfy.samplers.SAMPLER_NAMES],
        "schedulers": [*comfy.samplers.KSampler.SCHEDULERS, *comfy.samplers.SCHEDULER_NAMES],
        "routes": [f"{route.method} {route.path}" for route in routes if hasattr(route, "path")],
        "folders": {name: [list(paths), sorted(kinds)] for name, (paths, kinds) in _folders(folder_paths)},
        "environment": dict(os.environ),
    }


def _folders(folder_paths):
    return list(folder_paths.folder_names_and_paths.items())


def attributes():
    """Every attribute of the host's modules and of their classes, kept alive so that `is` can tell."""
    found = {}
    for name, module in list(sys.modules.items()):
        if any(name == top or name.startswith((top + ".", "comfy_")) for top in HOST):
            for key, value in list(vars(module).items()):
                found[name, key] = value
                if isinstance(value, type) and value.__module__ == name:
                    found.update({(name, key, inner): part for inner, part in list(vars(value).items())})
    return found


def load(folder):
    """Load one pack; what it did."""
    import nodes

    before, kept, modules, known = state(), attributes(), set(sys.modules), dict(nodes.NODE_CLASS_MAPPINGS)
    loaded = run(nodes.load_custom_node(folder, set(known), module_parent="custom_nodes"))
    after, now = state(), attributes()
    return {
        "loaded": loaded,
        "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - set(known)),
        "taken": sorted(name for name, kind in known.items() if nodes.NODE_CLASS_MAPPINGS.get(name) is not kind),
        "modules": sorted(set(sys.modules) - modules),
        "replaced": sorted(".".join(key) for key, value in kept.items() if now.get(key) is not value),
        **{key: difference(before[key], after[key]) for key in before},
    }


def difference(before, after):
    """What was added to a list or a dictionary; everything if anything was taken away or changed."""
    if isinstance(before, dict):
        same = all(after.get(key) == value for key, value in before.items())
        return {key: value for key, value in after.items() if key not in before} if same else after
    return after[len(before) :] if after[: len(before)] == before else after


def definition(name):
    """A node's entry of `/object_info`, without the seconds it takes to start a server."""
    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS[name]
    if hasattr(kind, "GET_NODE_INFO_V1"):
        return kind.GET_NODE_INFO_V1()
    return [kind.INPUT_TYPES(), kind.RETURN_TYPES, getattr(kind, "CATEGORY", ""), kind.__module__]


def main(host, base, *packs):
    enter(host, base)
    done = {Path(pack).name: load(pack) for pack in packs}
    import nodes

    known = {name: definition(name) for name in nodes.NODE_CLASS_MAPPINGS}
    text = json.dumps({"packs": done, "nodes": known}, default=lambda value: f"<{type(value).__name__}>")
    print("\n" + text)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Renamed nodes go on through the host's node replacement."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest


@pytest.fixture
def manager(comfy, monkeypatch):
    """The host's manager of replacements, as a server has it; the pack's converter is among the host's nodes."""
    from app.node_replace_manager import NodeReplaceManager

    import nodes

    manager = NodeReplaceManager()
    instance = SimpleNamespace(node_replace_manager=manager)
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "D2FConvert", object)
    return manager


def register(coroutine):
    """Run it in a thread: the browser tests leave a running event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(coroutine)).result()


@pytest.fixture
def rename(host):
    return host.replacement.Rename(
        "D2FOld", "D2FConvert", inputs={"checkpoint": "model", "from": "start"}, outputs={1: 0}, widgets=("from",)
    )


def test_a_prompt_with_the_old_id_is_rewritten(host, manager, rename):
    register(host.register_renames([rename]))
    prompt = {
        "1": {"class_type": "D2FOld", "inputs": {"checkpoint": ["0", 0], "from": "noise"}, "_meta": {}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 1]}, "_meta": {}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "D2FConvert"
    assert prompt["1"]["inputs"] == {"model": ["0", 0], "start": "noise"}
    assert prompt["2"]["inputs"] == {"model": ["1", 0]}


def test_the_page_gets_it_too(host, manager, rename):
    register(host.register_renames([rename]))
    (served,) = manager.as_dict()["D2FOld"]
    assert served["new_node_id"] == "D2FConvert"
    assert served["old_widget_ids"] == ["from"]


def test_the_pack_registers_its_own_table_and_nothing_else(pack, host, manager):
    async def load():
        await (await pack.comfy_entrypoint()).on_load()

    register(load())
    assert sorted(manager.as_dict()) == sorted(rename.old for rename in host.replacement.RENAMES)


def test_what_replaces_a_node_is_there(host, schemas):
    for rename in host.replacement.RENAMES:
        assert rename.old not in schemas
        assert set(rename.inputs.values()) <= {one.id for one in schemas[rename.new].inputs}
        assert set(rename.outputs.values()) <= set(range(len(schemas[rename.new].outputs)))

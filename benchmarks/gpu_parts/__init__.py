"""The parts of `bench gpu`, each with `rows(case)`, and the host's dynamic patcher switched on as in its `main.py`."""

MODULES = {"stock": "trainer", "compiled": "trainer"}
"""Part -> module, where the names differ."""


def begin_dynamic() -> bool:
    """The half that comes before torch is imported; False where comfy-aimdo is not installed or finds no driver."""
    try:
        import comfy_aimdo.control
    except ImportError:
        return False
    return bool(comfy_aimdo.control.init())


def finish_dynamic() -> None:
    """The half that comes after; leaves the plain patcher in force where there is no card."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control

    management = comfy.model_management
    devices = [(device.index, 0) for device in management.get_all_torch_devices()] if management.is_nvidia() else []
    if devices and comfy_aimdo.control.init_devices(devices):
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True

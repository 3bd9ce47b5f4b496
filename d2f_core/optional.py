"""Packages that may be missing: what to type to get one.

``pip`` alone may belong to another Python than the one that runs, as it does beside the portable ComfyUI of
Windows; so the command names the interpreter.
"""

import sys


def install_command(package: str) -> str:
    """The command that installs a package into the running Python: ``"/usr/bin/python" -m pip install package``."""
    return f'"{sys.executable}" -m pip install {package}'

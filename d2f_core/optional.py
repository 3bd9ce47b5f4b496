"""Packages that may be missing: what to type to get one.

``pip`` alone may belong to another Python than the one that runs, as it does beside the portable ComfyUI of
Windows; so the command names the interpreter.
"""

import sys


def install_command(package: str) -> str:
    """The command that installs a package into the running Python: ``/usr/bin/python -m pip install package``.

    A message ends with it, so that nothing more is copied; in quotation marks only if it must, which PowerShell takes
    for a value.
    """
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip install {package}"

"""The command `openshell-files`.

`process` handles signals and descriptors before it imports the other modules,
so its own imports are few and quick.
"""

from openshell_files.cli.process import main

__all__ = ["main"]

"""The command `openshell-files`.

`process` handles signals and descriptors, and imports the rest only then:
what it needs has to be light.
"""

from openshell_files.cli.process import main

__all__ = ["main"]

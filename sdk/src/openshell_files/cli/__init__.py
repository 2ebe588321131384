"""The command `openshell-files`."""

from openshell_files.cli.app import main

__all__ = ["main"]

"""An adapter that answers `unsupported` to everything, also to `hello`: the suite does not call it ready."""

from openshell_files_conformance.nothing.refusing import main

if __name__ == "__main__":
    main()

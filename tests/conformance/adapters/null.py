"""An adapter that answers `ok` to everything and does nothing. The honesty probe catches it; without the probe, the cases do."""

from openshell_files_conformance.nothing.agreeing import main

if __name__ == "__main__":
    main()

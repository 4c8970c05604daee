"""Virtual environments for tests, made in no time and without a network."""

import venv
from pathlib import Path


def environment(directory, *packages):
    """The Python of a new virtual environment, whose site-packages hold links to these packages and nothing else."""
    venv.create(directory, symlinks=True, with_pip=False)
    (site,) = directory.glob("lib/python*/site-packages")
    for package in packages:
        # Wheels keep shared libraries, and their version, in directories beside the package.
        place = Path(package.__file__).parents[1]
        for entry in (
            place / package.__name__,
            *place.glob(f"{package.__name__}.libs"),
            *place.glob(f"{package.__name__}-*.dist-info"),
        ):
            (site / entry.name).symlink_to(entry)
    return directory / "bin" / "python"

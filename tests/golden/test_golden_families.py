"""Every oracle file is whole and has a reader."""

import pytest
from golden_files import all_files, damage, family, name


@pytest.mark.parametrize("path", all_files(), ids=name)
def test_every_file_is_of_a_known_family(path):
    # Of those the readers go through all keys.
    assert damage(path) is None, damage(path)
    assert family(path) is not None, f"no golden test reads {path.name}"

"""A disk that is full, or that may not be written, ends a command with one line, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import exits, main
from tests.corpora.conftest import WRITERS

ROOT = Path(__file__).parents[1]
BUILD = ["data", "build", "--source=squad", "--split=all", "--chunk-tokens=40", "--chunks=3", "--instances=2"]

LIMITED = """if True:
    import resource, sys
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    if sys.argv[1] == "data":
        from finemem_jax import main
        sys.exit(main.main(sys.argv[1:]))
    import errno, pathlib
    import numpy as np
    from finemem_jax.weights.safetensor_files import Tensor, write_tensors
    try:
        write_tensors(pathlib.Path(sys.argv[1]), [Tensor("a", 4000, lambda: np.zeros(1000, np.float32))], 10**6)
    except OSError as error:
        sys.exit(0 if error.errno == errno.EFBIG and error.filename.endswith("model.safetensors") else str(error))
    sys.exit("it was written")
"""


def run_limited(*arguments: str) -> subprocess.CompletedProcess:
    """Python's own handling of SIGXFSZ makes the limit an error of `write`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", LIMITED, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_a_corpus_that_does_not_fit_on_the_disk_is_one_line(tmp_path):
    (tmp_path / "raw").mkdir()
    WRITERS["squad"](tmp_path / "raw")
    (tmp_path / "out").mkdir()
    earlier = tmp_path / "out" / "squad.parquet"
    earlier.write_bytes(b"of an earlier build")
    done = run_limited(*BUILD, f"--input={tmp_path / 'raw'}", f"--output={earlier}")
    assert done.returncode == exits.STOPPED, done.stderr
    assert done.stderr.splitlines()[-1].endswith("File too large") and "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == [earlier] and earlier.read_bytes() == b"of an earlier build"


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_weights_that_do_not_fit_on_the_disk_are_an_os_error(tmp_path):
    done = run_limited(str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_place_that_is_no_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    WRITERS["squad"](tmp_path / "raw")
    (tmp_path / "file").write_text("")
    given = [*BUILD, f"--input={tmp_path / 'raw'}", f"--output={tmp_path / 'file' / 'squad.parquet'}"]
    assert main.main(given) == exits.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"finemem data: {tmp_path / 'file'}: File exists"

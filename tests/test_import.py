"""What `import lastlayer` loads: NumPy, and nothing that is only needed later."""

import subprocess
import sys

import pytest

HEAVY = [
    "numba",
    "sklearn",
    "torch",
    "jax",
    "pandas",
    "pyarrow",
    "matplotlib",
    "scipy.stats",
    "scipy.optimize",
    "array_api_compat.numpy",
    "rich",
    "click",
    "jinja2",
]


def loaded_after(code):
    """The modules in a fresh interpreter, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import lastlayer",
        "import lastlayer; [getattr(lastlayer, name) for name in dir(lastlayer)]",
        "import lastlayer; lastlayer.cross_entropy([[2.0, 1.0]], [0]); lastlayer.softmax([1.0, 2.0], temperature=2)",
    ],
    ids=["import", "every public name", "a first loss"],
)
def test_nothing_heavy_is_loaded(code):
    loaded = loaded_after(code)
    assert "lastlayer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_what_is_unknown_is_an_attribute_error():
    loaded_after(
        "import lastlayer\ntry:\n    lastlayer.softmx\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit(1)"
    )

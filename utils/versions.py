"""Versions of the packages that decide a result."""

from importlib.metadata import PackageNotFoundError, version

_DECIDING = ("traitlens", "torch", "transformers", "scikit-learn", "numpy")


def package_versions() -> dict[str, str]:
    """Installed version by package name, without local build tags; missing packages are left out."""
    found = {}
    for name in _DECIDING:
        try:
            found[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    return found

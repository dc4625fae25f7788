"""The pipeline: what the three numbered commands and ``python -m extraction.NAME`` do."""

# The numbered commands find this package beside them, and where the project is not installed nothing else of it.
try:
    import utils.errors  # noqa: F401
except ModuleNotFoundError as error:
    raise SystemExit(f"error: this project is not installed ({error}). In its folder run: pip install -e .") from None

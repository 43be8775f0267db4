"""The one place that states the version besides pyproject.toml; a test holds them together."""

__version__ = "0.1.0"

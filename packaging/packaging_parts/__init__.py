"""Texts of the Debian package, made from what the project has already."""

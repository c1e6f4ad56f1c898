"""Moves what field cameras write into an S3 bucket, and firmware the other way, whatever fails."""

__version__ = "0.1.0"

"""The publisher's side of firmware: keys, the repository in the bucket, and what is done with it.

No worker imports it.
"""

# Before anything here imports securesystemslib: this edge makes it work with Debian 12's cryptography.
from syncagent.edges import trust as _trust  # noqa: F401

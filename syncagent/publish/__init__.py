"""The publisher's side of firmware: keys, the repository in the bucket, and what is done with it.

No worker imports it.
"""

from cryptography.hazmat.primitives.asymmetric import types as _types

# Here, before anything imports securesystemslib: Debian 12's cryptography 38 knows these two by their older names, and
# without them securesystemslib falls back, silently, to Ed25519 in pure Python.
for _name, _older in (("PublicKeyTypes", "PUBLIC_KEY_TYPES"), ("PrivateKeyTypes", "PRIVATE_KEY_TYPES")):
    if not hasattr(_types, _name):
        setattr(_types, _name, getattr(_types, _older))

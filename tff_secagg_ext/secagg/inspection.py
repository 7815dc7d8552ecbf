# SPDX-License-Identifier: Apache-2.0
"""Whether a transcript can be that of a session, and what it says.

- The chain of hashes is whole, from the setup to the end.
- Nobody is heard who was not invited, or after having dropped out or refused.
- The survivors are those whose masked vectors arrived, and not too few.

In the active classes, without trusting whoever wrote the transcript:

- Every client of the roster has signed its keys for exactly this setup.
- The graph's seed is the hash of what these clients committed to.
- Every confirmation is its client's signature of exactly these survivors.

What nobody signs, such as seconds, bytes and the digest of the result, is as
true as the writer of the transcript. Nor does a signature say whose it is: give
the identities that you know to have that checked, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import os
import struct
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tff_secagg_ext.secagg import transcript
from tff_secagg_ext.secagg.setup import MAX_ID, Security, Setup, VectorSpec
from tff_secagg_ext.secagg.transcript import TranscriptError

STAGES = ('invite', 'reveal', 'share', 'mask', 'confirm', 'unmask', 'verify')

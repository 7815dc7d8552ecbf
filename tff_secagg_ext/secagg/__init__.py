# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation: how vectors are summed in secret.

The protocol of docs/protocol.md, of numpy and the `cryptography` package,
without input or output.
"""

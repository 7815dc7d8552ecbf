# SPDX-License-Identifier: Apache-2.0
"""What a release tells about its clients, measured.

`implementation` attacks the code of a mechanism: docs/implementation_audit.md.
"""

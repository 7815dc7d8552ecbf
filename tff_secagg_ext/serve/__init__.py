# SPDX-License-Identifier: Apache-2.0
"""A live page of a ledger, which it reads and does not write.

`server.serve` is what `tff-secagg serve` runs. It stands on FastAPI and
uvicorn, of the extra `serve`; importing this package imports neither.
"""

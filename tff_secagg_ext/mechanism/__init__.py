# SPDX-License-Identifier: Apache-2.0
"""What happens to a vector: pure TensorFlow functions, no TFF."""

# SPDX-License-Identifier: Apache-2.0
# The op rows. A row whose CUDA place is still empty says "CUDA pending".
add_op(matmul CUDA pending)
add_op(swiglu CUDA pending)

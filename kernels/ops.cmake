# SPDX-License-Identifier: Apache-2.0
# The op rows. A row whose CUDA place is still empty says "CUDA pending".
add_op(attention CUDA pending)
add_op(rotary CUDA pending)
add_op(qk_norm CUDA pending)
add_op(matmul CUDA pending)
add_op(swiglu CUDA pending)
add_op(rms_norm CUDA pending)
add_op(dropout CUDA pending)
add_op(add CUDA pending)
add_op(cast CUDA pending)
add_op(adamw KERNEL_ONLY CUDA pending)
add_op(kv_cache KERNEL_ONLY CUDA pending)
add_op(cross_entropy CUDA pending)

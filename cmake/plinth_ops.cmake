# SPDX-License-Identifier: Apache-2.0
# add_op(STEM [KERNEL_ONLY] [CUDA pending]): one op is one row of files with the same stem. Configuring fails when a
# place in the row is empty. KERNEL_ONLY rows (optimizer, norms of gradients) have no differentiable op above them. Rows whose
# CUDA is pending have no file for the device and no comparison with it: tests/lint/op_rows.cmake lists them.
function(add_op stem)
    cmake_parse_arguments(arg "KERNEL_ONLY" "CUDA" "" ${ARGN})
    set(row kernels/${stem}.h kernels/cpu/${stem}.cpp tests/unit/ops/${stem}.cpp benchmarks/ops/${stem}.cpp)
    if(NOT arg_KERNEL_ONLY)
        list(APPEND row core/ops/${stem}.h core/ops/${stem}.cpp)
    endif()
    if(arg_CUDA STREQUAL "pending")
        set_property(GLOBAL APPEND PROPERTY PLINTH_CUDA_PENDING ${stem})
    else()
        list(APPEND row tests/gpu/${stem}.cpp)
        if(NOT EXISTS ${CMAKE_SOURCE_DIR}/kernels/cuda/${stem}.cpp)  # host code that calls a library, or kernels
            list(APPEND row kernels/cuda/${stem}.cu)
        endif()
    endif()
    foreach(place ${row})
        if(NOT EXISTS ${CMAKE_SOURCE_DIR}/${place})
            message(FATAL_ERROR "op row '${stem}' is incomplete: ${place} is missing")
        endif()
    endforeach()
    set_property(GLOBAL APPEND PROPERTY PLINTH_OPS ${stem})
endfunction()

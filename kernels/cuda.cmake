# SPDX-License-Identifier: Apache-2.0
# The CUDA backend: a module that the program loads when a device is there or asked for (kernels/runtime/device_module.h). It
# takes what it shares with the program (errors, names of types) from the program, which exports its symbols.
find_package(CUDAToolkit 13.0 REQUIRED)
find_path(NVTX_INCLUDE_DIR nvtx3/nvToolsExt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)  # headers alone
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_TARGET_DIR}/lib REQUIRED)
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
    HINTS ${CMAKE_SOURCE_DIR}/.cache/cudnn_frontend/include $ENV{CUDNN_FRONTEND_HOME}/include
    DOC "include folder of the PyPI package nvidia-cudnn-frontend (launch/install_packages.sh cuda)" REQUIRED)

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp)
add_library(plinth_cuda MODULE ${cuda_sources})
set_target_properties(plinth_cuda PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
    CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF CUDA_RUNTIME_LIBRARY Shared CXX_VISIBILITY_PRESET hidden)
target_include_directories(plinth_cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_include_directories(plinth_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${NVTX_INCLUDE_DIR}
    ${CUDNN_INCLUDE_DIR} ${CUDNN_FRONTEND_INCLUDE_DIR})
target_compile_options(plinth_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wno-missing-field-initializers;-ffp-contract=off>
    # Equal bits: products and sums are contracted only where the source says fma.
    $<$<COMPILE_LANGUAGE:CUDA>:-DFMT_USE_CONSTEXPR=1;--fmad=false;--extended-lambda;--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wno-missing-field-initializers>
    $<$<AND:$<BOOL:${PLINTH_WERROR}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>)
# Calls of a library around very many templates: optimising and describing them takes minutes and gains nothing.
set_source_files_properties(cuda/attention_cudnn.cpp PROPERTIES COMPILE_OPTIONS "-O1;-g0")
target_link_libraries(plinth_cuda PRIVATE fmt::fmt CUDA::cudart CUDA::cublasLt ${CUDNN_LIBRARY} CUDA::nvrtc)
add_dependencies(plinth_kernels plinth_cuda)
# For modules of other folders that name the device's types.
set(PLINTH_DEVICE_INCLUDE_DIRS ${CUDAToolkit_INCLUDE_DIRS} CACHE INTERNAL "")
set(PLINTH_DEVICE_LIBRARY_DIRS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_TARGET_DIR}/lib CACHE INTERNAL "")
